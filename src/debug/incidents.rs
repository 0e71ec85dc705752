//! What the flight recorder has kept by itself.

use maud::{Markup, html};

use super::{
    document::{self, headings},
    text,
};
use crate::trace::{self, Incident, IncidentKind};

/// The incidents, newest first. Nothing if none is kept.
pub(super) fn table() -> Markup {
    let incidents = trace::incidents();
    html! {
        @if !incidents.is_empty() {
            section id="incidents" {
                h2 { "Incidents" }
                @let headings = headings(&["Route", "Id", "Noticed", "Thread"], Some("What"));
                (document::table("Incidents", &headings, incidents.iter().rev().take(10).map(row)))
            }
        }
    }
}

fn row(incident: &Incident) -> Markup {
    html! {
        tr {
            th scope="row" { code { (text::name(incident.route.as_deref().unwrap_or("—"))) } }
            td { (incident.request) }
            td { @if let Ok(ago) = incident.at.elapsed() { (text::time(ago)) " ago" } }
            td { (text::name(&incident.thread)) " " (incident.thread_id) }
            td class="text bad" {
                @match (incident.kind, incident.duration, incident.bytes) {
                    (IncidentKind::SlowPoll, Some(duration), _) => {
                        @if incident.running { "blocks its thread for " } @else { "blocked its thread for " }
                        (text::time(duration))
                        @if incident.running { " so far" }
                    },
                    (IncidentKind::Bytes, _, Some(bytes)) => { "allocated " (text::bytes(bytes)) },
                    _ => "exceeded its deadline",
                }
                @if let Some(task) = &incident.task { " in " code { (text::name(task)) } }
            }
        }
    }
}

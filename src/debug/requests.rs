//! The lists of single requests. Their annotations are not shown: they may be anything that a client has sent.

use maud::{Markup, html};

use super::{
    document::{headings, table},
    text,
};
use crate::{
    observe::{MemoryHandle, PastRequest, RouteExtremes},
    scope::LiveRequest,
};

/// Rows of the lists on the first page, and on the page of their own.
const SHORT: usize = 10;
const LONG: usize = 100;

/// What the first page shows.
pub(super) fn some_open(handle: &MemoryHandle, base: &str) -> Markup {
    open(handle.requests().as_deref(), SHORT, Some(base))
}

/// The page of the open requests, and of the largest and slowest ones.
pub(super) fn page(handle: &MemoryHandle) -> Markup {
    let extremes = handle.extremes();
    html! {
        (open(handle.requests().as_deref(), LONG, None))
        @if let Some(extremes) = &extremes {
            (past("Largest of the last minutes", extremes, |route| &route.largest, size))
            (past("Slowest of the last minutes", extremes, |route| &route.slowest, duration))
        }
    }
}

fn open(requests: Option<&[LiveRequest]>, most: usize, base: Option<&str>) -> Markup {
    html! {
        section id="requests" {
            h2 { "Open requests" }
            @match requests {
                None => p { "Not listed: the layer was built without " code { "list_requests()" } "." },
                Some([]) => p { "None." },
                Some(requests) => {
                    @let figures = [
                        "Route", "Id", "Age", "Deadline in", "Status", "Bytes", "Allocations", "Arena", "Tasks",
                    ];
                    @let headings = headings(&figures, Some("Cancelled"));
                    (table("Open requests", &headings, requests.iter().take(most).map(open_row)))
                    @if requests.len() > most {
                        p class="note" {
                            "The oldest " (most) " of " (text::count(requests.len() as u64)) ". "
                            @if let Some(base) = base { a href={ (base) "requests" } { "More requests" } }
                        }
                    }
                }
            }
        }
    }
}

fn open_row(request: &LiveRequest) -> Markup {
    html! {
        tr {
            th scope="row" { code { (request.method) " " (text::name(request.route.as_str())) } }
            td { (request.id) }
            td { (text::time(request.age)) }
            td { @if let Some(left) = request.deadline_left { (text::time(left)) } }
            td { @if let Some(status) = request.status { (status) } }
            (text::byte_cell(request.bytes))
            td { @if let Some(count) = request.allocations { (text::count(count)) } }
            (text::byte_cell(Some(request.arena_bytes as u64)))
            td { (request.tasks) }
            td class="text bad" { @if let Some(outcome) = request.cancelled { (outcome.as_str()) } }
        }
    }
}

/// What allocated most, or took most from its arena where that is not known, as the tables are ordered.
fn size(request: &PastRequest) -> u64 {
    let report = &request.report;
    match report.usage {
        Some(usage) => usage.bytes_allocated,
        None => report.arena.bytes as u64,
    }
}

fn duration(request: &PastRequest) -> u64 {
    u64::try_from(request.report.total_time.as_nanos()).unwrap_or(u64::MAX)
}

/// The first requests of all routes.
fn past(
    title: &str,
    routes: &[RouteExtremes],
    of: fn(&RouteExtremes) -> &Vec<PastRequest>,
    by: fn(&PastRequest) -> u64,
) -> Markup {
    let mut requests: Vec<_> = routes.iter().flat_map(of).collect();
    requests.sort_by_key(|request| std::cmp::Reverse(by(request)));
    html! {
        section {
            h2 { (title) }
            @if requests.is_empty() {
                p { "None." }
            } @else {
                @let figures = [
                    "Route", "Id", "Closed", "Time", "Status", "Bytes", "Peak", "Allocations", "Arena",
                ];
                @let headings = headings(&figures, Some("Outcome"));
                (table(title, &headings, requests.iter().take(LONG / 4).map(|request| past_row(request))))
            }
        }
    }
}

fn past_row(request: &PastRequest) -> Markup {
    let report = &request.report;
    let usage = report.usage;
    html! {
        tr {
            th scope="row" { code { (report.method) " " (text::name(report.route.as_str())) } }
            td { @if let Some(id) = report.id { (id) } }
            td { (text::time(request.ago)) " ago" }
            td { (text::time(report.total_time)) }
            td { @if let Some(status) = report.status { (status) } }
            (text::byte_cell(usage.map(|usage| usage.bytes_allocated)))
            (text::byte_cell(usage.and_then(|usage| usage.peak_bytes)))
            td { @if let Some(usage) = usage { (text::count(usage.allocations)) } }
            (text::byte_cell(Some(report.arena.bytes as u64)))
            td class="text" { (report.outcome.as_str()) }
        }
    }
}

//! The table of routes.

use std::cmp::Ordering;

use maud::{Markup, html};

use super::{
    document,
    query::{BadQuery, Query},
    text,
};
use crate::{
    cancel::Outcome,
    observe::{RouteSnapshot, Summary},
};

/// Rows shown at a time, so that the page stays small.
const ROWS: usize = 40;

/// The names of the columns that the table can be sorted by, for the query.
const NAMES: [&str; 11] = [
    "route",
    "requests",
    "in_flight",
    "bytes_p50",
    "bytes_p95",
    "bytes_max",
    "count",
    "arena",
    "hits",
    "time",
    "failed",
];

/// Their headings.
const HEADINGS: [(&str, &str); 11] = [
    ("Route", "method and route label"),
    ("Requests", "requests so far, with those in flight"),
    ("In flight", "requests whose scope is open"),
    (
        "Bytes p50",
        "heap bytes allocated per closed request: median",
    ),
    (
        "p95",
        "heap bytes allocated per closed request: 95th percentile",
    ),
    ("max", "heap bytes allocated per closed request: maximum"),
    ("Allocations", "heap allocations per closed request: mean"),
    ("Arena", "arena bytes per closed request: 95th percentile"),
    (
        "Pool hits",
        "closed requests whose arena came from the pool, of those that used one",
    ),
    (
        "Time p95",
        "time from the call to the close of the scope: 95th percentile",
    ),
    (
        "Outcomes",
        "closed requests by outcome; sorted by those that did not complete",
    ),
];

const ORDERS: [&str; 2] = ["desc", "asc"];

/// The order and part of the table that a query asks for.
#[derive(Debug, Clone, Copy)]
pub(super) struct View {
    column: usize,
    ascending: bool,
    from: usize,
}

impl View {
    /// The parameters that it reads.
    pub(super) const PARAMETERS: &'static [&'static str] = &["sort", "order", "from"];

    pub(super) fn of(query: &Query<'_>) -> Result<Self, BadQuery> {
        let column = query.one_of("sort", &NAMES)?;
        let order = query.one_of("order", &ORDERS)?;
        let from = query.number("from", 0, 1_000_000)?.unwrap_or(0);
        let column = column.unwrap_or(4);
        Ok(Self {
            column,
            ascending: order.map_or(column == 0, |order| order == 1),
            from: usize::try_from(from).unwrap_or(usize::MAX),
        })
    }

    fn link(column: usize, ascending: bool, from: usize) -> String {
        let (name, order) = (NAMES[column], ORDERS[usize::from(ascending)]);
        let from = match from {
            0 => String::new(),
            from => format!("&from={from}"),
        };
        format!("?sort={name}&order={order}{from}#routes")
    }

    fn order(&self, a: &RouteSnapshot, b: &RouteSnapshot) -> Ordering {
        let by_name = || (a.route.as_str(), a.method).cmp(&(b.route.as_str(), b.method));
        let order = if self.column == 0 {
            by_name()
        } else {
            // Not known is less than zero.
            value(self.column, a).total_cmp(&value(self.column, b))
        };
        let order = if self.ascending {
            order
        } else {
            order.reverse()
        };
        order.then_with(by_name)
    }

    /// The table, from the requested row on.
    pub(super) fn table(&self, routes: &[RouteSnapshot]) -> Markup {
        let mut sorted: Vec<_> = routes.iter().collect();
        sorted.sort_by(|a, b| self.order(a, b));
        let from = self.from.min(sorted.len());
        let shown = &sorted[from..(from + ROWS).min(sorted.len())];
        html! {
            section id="routes" {
                h2 { "Routes" }
                @if routes.is_empty() {
                    p { "No request yet." }
                } @else {
                    @let headings = html! { @for column in 0..HEADINGS.len() { (self.heading(column)) } };
                    (document::table("Routes", &headings, shown.iter().map(|route| row(route))))
                    @if sorted.len() > shown.len() {
                        p class="note" {
                            "Rows " (from + usize::from(!shown.is_empty())) " to " (from + shown.len()) " of " (sorted.len()) "."
                            @if from > 0 {
                                " " a href=(Self::link(self.column, self.ascending, from.saturating_sub(ROWS))) { "Earlier rows" }
                            }
                            @if from + shown.len() < sorted.len() {
                                " " a href=(Self::link(self.column, self.ascending, from + ROWS)) { "Further rows" }
                            }
                        }
                    }
                }
            }
        }
    }

    fn heading(&self, column: usize) -> Markup {
        let (heading, help) = HEADINGS[column];
        // The outcomes.
        let text = (column == HEADINGS.len() - 1).then_some("text");
        let is_sorted = column == self.column;
        // Again is the other way round; a new column begins with its natural order.
        let ascending = if is_sorted {
            !self.ascending
        } else {
            column == 0
        };
        let sort = match (is_sorted, self.ascending) {
            (false, _) => None,
            (true, true) => Some("ascending"),
            (true, false) => Some("descending"),
        };
        html! {
            th scope="col" class=[text] aria-sort=[sort] title=(help) {
                a href=(Self::link(column, ascending, 0)) {
                    (heading)
                    @if is_sorted { span aria-hidden="true" { @if self.ascending { " ▲" } @else { " ▼" } } }
                }
            }
        }
    }
}

fn at(summary: Option<&Summary>, q: f64) -> f64 {
    summary.map_or(-1.0, |summary| summary.percentile(q) as f64)
}

fn value(column: usize, route: &RouteSnapshot) -> f64 {
    let bytes = route.bytes.as_ref();
    match column {
        1 => route.requests as f64,
        2 => route.in_flight as f64,
        3 => at(bytes, 0.5),
        4 => at(bytes, 0.95),
        5 => bytes.map_or(-1.0, |bytes| bytes.max as f64),
        6 => route.allocations.as_ref().map_or(-1.0, Summary::mean),
        7 => at(route.arena_bytes.as_ref(), 0.95),
        8 => share(route).unwrap_or(-1.0),
        9 => route
            .total_time
            .as_ref()
            .map_or(-1.0, |time| time.percentile(0.95).as_secs_f64()),
        _ => (route.outcomes.total() - route.outcomes.get(Outcome::Completed)) as f64,
    }
}

/// The hit rate of the pool.
fn share(route: &RouteSnapshot) -> Option<f64> {
    let arenas = route.arena_hits + route.arena_misses;
    (arenas > 0).then(|| route.arena_hits as f64 / arenas as f64)
}

fn row(route: &RouteSnapshot) -> Markup {
    let bytes = route.bytes.as_ref();
    let mean = route.allocations.as_ref().map(Summary::mean);
    let time = route.total_time.as_ref().map(|time| time.percentile(0.95));
    html! {
        tr {
            th scope="row" { code { (route.method) " " (text::name(route.route.as_str())) } }
            td { (text::count(route.requests)) }
            td { (text::count(route.in_flight as u64)) }
            (text::byte_cell(bytes.map(|bytes| bytes.percentile(0.5))))
            (text::byte_cell(bytes.map(|bytes| bytes.percentile(0.95))))
            (text::byte_cell(bytes.map(|bytes| bytes.max)))
            td { @if let Some(mean) = mean { (text::mean(mean)) } }
            (text::byte_cell(route.arena_bytes.as_ref().map(|bytes| bytes.percentile(0.95))))
            td { @if let Some(hits) = text::rate(route.arena_hits, route.arena_misses) { (hits) } }
            td { @if let Some(time) = time { (text::time(time)) } }
            td class="text" {
                @for (outcome, count) in route.outcomes.iter() {
                    @let class = (outcome != Outcome::Completed).then_some("bad");
                    span class=[class] { (outcome.as_str()) " " (text::count(count)) } " "
                }
            }
        }
    }
}

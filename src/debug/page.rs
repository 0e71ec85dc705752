//! What the pages contain.

use maud::{Markup, html};

use super::{
    document::{headings, table},
    history::{History, Sample},
    plot::{Line, plot},
    requests,
    routes::View,
    text,
};
use crate::{
    observe::{DetachedTasks, MemoryHandle, Snapshot, TaskOverruns},
    task::TaskReport,
};

/// Rows of the lists on the first page, and on pages of their own.
const SHORT: usize = 10;
const LONG: usize = 500;

const PROCESS: [Line; 2] = [
    Line {
        name: "resident",
        value: |sample| sample.resident,
    },
    Line {
        name: "allocated by the program",
        value: |sample| sample.tracked,
    },
];

const POOL: [Line; 3] = [
    Line {
        name: "waiting",
        value: |sample| Some(sample.waiting),
    },
    Line {
        name: "arenas in use",
        value: |sample| Some(sample.arenas),
    },
    Line {
        name: "buffers in use",
        value: |sample| Some(sample.buffers),
    },
];

/// The first page.
pub(super) fn overview(handle: &MemoryHandle, history: &History, view: View, base: &str) -> Markup {
    let snapshot = handle.snapshot();
    let (samples, now) = history.read();
    html! {
        (figures(&snapshot, &now))
        h2 { "Memory" }
        div class="plots" {
            (plot("Process", &PROCESS, &samples, &now))
            (plot("Pool", &POOL, &samples, &now))
        }
        (view.table(&snapshot.routes))
        (incidents())
        (requests::some_open(handle, base))
        (tasks(&handle.outliving(), SHORT, Some(base)))
    }
}

/// What exceeded a threshold of the flight recorder, newest first. Nothing without a recorder.
fn incidents() -> Markup {
    #[cfg(feature = "trace")]
    return super::incidents::table();
    #[cfg(not(feature = "trace"))]
    html! {}
}

/// The page of all tasks that outlive their request.
pub(super) fn all_tasks(handle: &MemoryHandle) -> Markup {
    html! {
        (tasks(&handle.outliving(), LONG, None))
        section {
            h2 { "Detached tasks" }
            @let detached = handle.detached();
            @if detached.is_empty() {
                p { "None so far." }
            } @else {
                @let headings = headings(&["Name", "Started", "Alive", "Bytes"], None);
                (table("Detached tasks", &headings, detached.iter().take(LONG).map(detached_row)))
            }
        }
        section {
            h2 { "Tasks that exceeded their grace period" }
            @let overruns = handle.task_overruns();
            @if overruns.is_empty() {
                p { "None so far." }
            } @else {
                @let title = "Tasks that exceeded their grace period";
                @let headings = headings(&["Started at", "Aborted", "Given up"], None);
                (table(title, &headings, overruns.iter().take(LONG).map(overrun_row)))
            }
        }
    }
}

fn detached_row(task: &DetachedTasks) -> Markup {
    html! {
        tr {
            th scope="row" { code { (text::name(task.name)) } }
            td { (text::count(task.started)) }
            td { (text::count(task.alive as u64)) }
            td { @if let Some(bytes) = task.bytes { (text::bytes(bytes)) } }
        }
    }
}

fn overrun_row(task: &TaskOverruns) -> Markup {
    html! {
        tr {
            th scope="row" { code { @if let Some(location) = task.location { (location) } @else { "other" } } }
            td { (text::count(task.aborted)) }
            td { (text::count(task.given_up)) }
        }
    }
}

/// The figures above the plots. What is not known is absent.
fn figures(snapshot: &Snapshot, now: &Sample) -> Markup {
    let pool = &snapshot.pool;
    let counts = [
        ("Requests in flight", snapshot.in_flight as u64),
        ("Tasks", snapshot.tasks as u64),
        ("Detached tasks", snapshot.detached as u64),
        ("Arenas in use", pool.rented as u64),
    ];
    let sizes = [
        ("Resident", now.resident),
        ("Allocated", now.tracked),
        ("Unattributed", now.unattributed()),
    ];
    let rates = [
        ("Arenas from the pool", text::rate(pool.hits, pool.misses)),
        (
            "Buffers from the pool",
            text::rate(pool.buffer_hits, pool.buffer_misses),
        ),
    ];
    let lost = [
        ("Reports dropped", snapshot.dropped_reports),
        ("Observer panics", snapshot.observer_panics),
    ];
    html! {
        dl {
            @for (name, count) in counts { div { dt { (name) } dd { (text::count(count)) } } }
            @for (name, rate) in rates {
                @if let Some(rate) = rate { div { dt { (name) } dd { (rate) } } }
            }
            @for (name, bytes) in sizes {
                @if let Some(bytes) = bytes {
                    div { dt { (name) } dd title={ (bytes) " bytes" } { (text::bytes(bytes)) } }
                }
            }
            @if let Some(limit) = &snapshot.limit {
                div { dt { "Limit (" (limit.mode.as_str()) ")" } dd { (text::bytes(limit.limit)) } }
                @if let Some(used) = limit.used { div { dt { "Used of it" } dd { (text::bytes(used)) } } }
                div { dt { "Stage" } dd { (limit.stage.as_str()) } }
            }
            @for (name, count) in lost {
                @if count > 0 { div { dt { (name) } dd class="bad" { (text::count(count)) } } }
            }
        }
        @if now.unattributed().is_some() {
            p class="note" {
                "Unattributed: resident memory that no live allocation accounts for, such as what the allocator \
                 keeps, stacks and code."
            }
        }
    }
}

/// Tasks whose request has ended. With a `base` it is a part of the first page.
fn tasks(tasks: &[TaskReport], most: usize, base: Option<&str>) -> Markup {
    html! {
        section id="tasks" {
            h2 { "Tasks that outlive their request" }
            @if tasks.is_empty() {
                p { "None." }
            } @else {
                @let figures = ["Started at", "Age", "Since the end", "Bytes", "State"];
                @let headings = headings(&figures, Some("Task and route"));
                (table("Tasks that outlive their request", &headings, tasks.iter().take(most).map(task_row)))
                @if tasks.len() > most {
                    p class="note" {
                        "The oldest " (most) " of " (tasks.len()) ". "
                        @if let Some(base) = base { a href={ (base) "tasks" } { "All tasks" } }
                    }
                }
            }
        }
    }
}

fn task_row(task: &TaskReport) -> Markup {
    html! {
        tr {
            th scope="row" { code { (task.location) } }
            td { (text::time(task.age)) }
            td { @if let Some(since) = task.since_end { (text::time(since)) } }
            td { @if let Some(usage) = &task.usage { (text::bytes(usage.bytes_allocated)) } }
            td { @if task.running { span class="bad" { "running" } } @else { "waiting" } }
            td class="text" {
                (task.kind.as_str()) " "
                @if let Some(name) = task.name { code { (text::name(name)) } " " }
                code { (text::name(task.route.as_str())) }
            }
        }
    }
}

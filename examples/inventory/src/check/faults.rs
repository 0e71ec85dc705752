//! A store that is locked, corrupted, or has no room.

use std::{fs, path::Path, process::Output};

use http::Method;
use serde_json::json;

use super::{bad_input::order, client::Client, read, report::Report, server::Server};
use crate::{BoxError, catalogue};

const STOCK: u32 = 100_000;

/// Room for the store that fills up, in KiB.
const ROOM: usize = 1024;

pub(super) async fn check(report: &mut Report, directory: &Path) -> Result<(), BoxError> {
    let file = directory.join("faults.redb");
    let server = Server::start(&file, 0, STOCK)?;
    says(
        report,
        "locked",
        &file,
        &Server::fails(&file)?,
        "another process has it open",
    );
    let client = Client::new(server.addr);
    let orders = place(&client, "locked", 20).await?.0;
    for path in ["/", "/debug", "/metrics"] {
        let status = client.get(path).await?.status;
        report.expect(status == 200, format!("{path}: {status}"));
    }
    drop(server);

    let audit = read(&file)?;
    report.expect(
        audit.orders.len() == orders.len() && audit.wrong().is_empty(),
        format!("{} orders survive a kill", audit.orders.len()),
    );
    drop(audit);
    corrupted(report, directory, &file)?;
    if cfg!(unix) {
        full(report, &directory.join("full.redb")).await?;
    }
    Ok(())
}

fn says(report: &mut Report, what: &str, file: &Path, output: &Output, says: &str) {
    let text = String::from_utf8_lossy(&output.stderr);
    let last = text.lines().last().unwrap_or("nothing");
    report.expect(
        output.status.code() == Some(1)
            && last.contains(says)
            && last.contains(&*file.to_string_lossy()),
        format!("a store that is {what}: {last}"),
    );
}

fn corrupted(report: &mut Report, directory: &Path, file: &Path) -> Result<(), BoxError> {
    let good = fs::read(file)?;
    let page = |at: usize| (at / 512).is_multiple_of(3);
    let kinds: [(&str, Vec<u8>); 4] = [
        ("overwritten in front", [&[b'x'; 64], &good[64..]].concat()),
        ("half as long", good[..good.len() / 2].to_vec()),
        ("another file", b"hello ".repeat(1000)),
        (
            "damaged in many pages",
            good.iter()
                .enumerate()
                .map(|(at, byte)| if at > 4096 && page(at) { !byte } else { *byte })
                .collect(),
        ),
    ];
    for (what, bytes) in kinds {
        let path = directory.join("corrupted.redb");
        fs::write(&path, &bytes)?;
        says(
            report,
            what,
            &path,
            &Server::fails(&path)?,
            "the file is corrupted",
        );
        report.expect(
            fs::read(&path)? == bytes,
            format!("a store that is {what} is left as it is"),
        );
    }
    Ok(())
}

/// Places at most `n` orders. Returns the numbers of those that were confirmed by an answer, and what ended it.
async fn place(client: &Client, key: &str, n: usize) -> Result<(Vec<u64>, String), BoxError> {
    let mut orders = Vec::new();
    for n in 0..n {
        let lines = (0..100).map(|line| {
            (
                catalogue::items()[(n + line) % catalogue::ITEMS]
                    .sku
                    .clone(),
                json!(1),
            )
        });
        let answer = client
            .order("arena", &format!("{key}-{n}"), order(lines))
            .await?;
        match answer.json["order"].as_u64() {
            Some(order) => orders.push(order),
            None if answer.is_problem(503) => return Ok((orders, answer.detail().to_owned())),
            None => return Err(format!("{}: {}", answer.status, answer.json).into()),
        }
    }
    Ok((orders, String::new()))
}

async fn full(report: &mut Report, file: &Path) -> Result<(), BoxError> {
    let server = Server::with_little_room(file, STOCK, ROOM)?;
    let client = Client::new(server.addr);
    let (orders, end) = place(&client, "full", 100_000).await?;
    report.expect(
        !orders.is_empty() && end.contains(&*file.to_string_lossy()) && end.contains("os error"),
        format!(
            "a disk that is full after {} orders: 503, {end}",
            orders.len()
        ),
    );
    // It can still tell what was ordered, after it has opened the file again.
    let last = orders.last().copied().unwrap_or_default();
    let mut answer = client.get(&format!("/orders/{last}")).await?;
    for _ in 0..100 {
        if answer.status == 200 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        // An order that has no place makes it try.
        let again = client
            .send(Method::POST, &format!("/orders/{last}/confirm"), &[], "")
            .await?;
        answer = client.get(&format!("/orders/{last}")).await?;
        drop(again);
    }
    let told = answer.status == 200 || answer.is_problem(503);
    report.expect(
        told,
        format!(
            "then, an order is read: {} {}",
            answer.status,
            answer.detail()
        ),
    );
    drop(server);

    let server = Server::start(file, 0, STOCK)?;
    let client = Client::new(server.addr);
    let mut kept = 0;
    for order in &orders {
        kept += usize::from(client.get(&format!("/orders/{order}")).await?.status == 200);
    }
    report.expect(
        kept == orders.len(),
        format!(
            "with room again, {kept} of {} orders are there",
            orders.len()
        ),
    );
    let more = place(&client, "full", orders.len() + 5).await?.0;
    report.expect(
        more.starts_with(&orders) && more.len() == orders.len() + 5,
        format!(
            "a retry of all finds the {} that are there, and places {} more",
            orders.len(),
            more.len() - orders.len()
        ),
    );
    drop(server);
    let audit = read(file)?;
    report.expect(
        audit.wrong().is_empty() && audit.oversold(STOCK) == 0,
        "its stock is what the orders say",
    );
    Ok(())
}

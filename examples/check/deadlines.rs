//! `client --check`: sends requests over TCP and checks the responses.

mod client;
mod report;

use std::{error::Error, net::SocketAddr, process::ExitCode};

use axum::http::Method;
use tower_memory::{MemoryHandle, Outcome};

use self::{
    client::{Answer, Client},
    report::{Report, text},
};
use super::{MARGIN, TIMEOUT};

pub(crate) async fn run(
    addr: SocketAddr,
    handles: &[MemoryHandle; 2],
) -> Result<ExitCode, Box<dyn Error + Send + Sync>> {
    let client = Client::new(addr);
    let mut report = Report::default();
    let [quick, slow, late] = [
        get(&client, &mut report, "/quick").await?,
        get(&client, &mut report, "/slow").await?,
        get(&client, &mut report, "/late").await?,
    ];
    let lines = |answer: &Answer| String::from_utf8_lossy(&answer.body).into_owned();

    let said = lines(&quick);
    let left = |service: &str| {
        let line = said.lines().find_map(|line| line.strip_prefix(service))?;
        line.split(' ').next()?.parse::<u128>().ok()
    };
    let (front, back) = (left("front: "), left("back: "));
    report.expect(
        matches!((front, back), (Some(front), Some(back))
            if front <= TIMEOUT.as_millis() && back + MARGIN.as_millis() <= front),
        format!("/quick: {}", said.trim_end().replace('\n', "; ")),
    );
    report.expect(
        quick.status == 200 && said.contains("set by the header x-request-timeout-ms"),
        "/quick: the deadline of the back comes from the header",
    );

    let said = lines(&slow);
    report.expect(
        slow.status == 502 && said.contains("the header x-request-timeout-ms passed after"),
        format!("/slow: {}", said.replace('\n', " ").trim_end()),
    );
    let said = lines(&late);
    report.expect(
        late.status == 504 && said.starts_with("front: call not sent"),
        format!("/late: {}", said.trim_end()),
    );
    report.expect(
        [&quick, &slow, &late].map(|answer| text(&answer.headers, "x-alloc-route"))
            == ["/{what}"; 3],
        "all three responses come from the front",
    );

    for handle in handles {
        report.expect_nothing_left(handle).await;
    }
    let [front, back] = handles.each_ref().map(|handle| {
        let routes = handle.snapshot().routes;
        routes.first().map(|route| {
            [Outcome::Completed, Outcome::DeadlineExceeded].map(|o| route.outcomes.get(o))
        })
    });
    report.expect(
        (front, back) == (Some([3, 0]), Some([1, 1])),
        format!("[completed, deadline exceeded]: {front:?} at the front, {back:?} at the back"),
    );
    Ok(report.finish())
}

async fn get(
    client: &Client,
    report: &mut Report,
    path: &str,
) -> Result<Answer, Box<dyn Error + Send + Sync>> {
    let answer = client.send(Method::GET, path).await?;
    report.received(
        &format!("GET {path}"),
        answer.status.as_str(),
        &answer.headers,
    );
    Ok(answer)
}

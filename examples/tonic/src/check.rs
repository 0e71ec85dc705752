//! `--check`: sends calls with a tonic client and checks the responses.

use std::{error::Error, net::SocketAddr, process::ExitCode, time::Duration};

use tokio_stream::StreamExt;
use tonic::{Code, Request, transport::Endpoint};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tower::util::MapRequest;
use tower_memory::{MemoryHandle, Outcome};

use super::{
    METHODS, SERVED,
    report::{Report, settled, text},
};

const ROUTE: &str = "x-alloc-route";

pub(crate) async fn run(
    addr: SocketAddr,
    handle: &MemoryHandle,
) -> Result<ExitCode, Box<dyn Error + Send + Sync>> {
    let [check, watch] = METHODS;
    let channel = Endpoint::from_shared(format!("http://{addr}"))?
        .timeout(Duration::from_secs(10))
        .connect()
        .await?;
    let mut client = HealthClient::new(channel.clone());
    let mut report = Report::default();

    let (metadata, answer, _) = client.check(asked(SERVED)).await?.into_parts();
    // Trailers are sent after the message; tonic adds them to the metadata of a unary call.
    let metadata = metadata.into_headers();
    report.received("Check", "0", &metadata);
    report.expect(
        answer.status() == ServingStatus::Serving,
        format!("Check of {SERVED}: {}", answer.status().as_str_name()),
    );
    report.expect(
        text(&metadata, ROUTE) == check,
        "the route in its metadata is the method",
    );
    report.expect(
        text(&metadata, "grpc-status") == "0",
        "its trailers have grpc-status 0",
    );

    let status = client.check(asked("unknown")).await.err();
    let status = status.ok_or("Check of an unknown service succeeded")?;
    let code = (status.code() as i32).to_string();
    let metadata = status.metadata().clone().into_headers();
    report.received("Check (unknown)", &code, &metadata);
    report.expect(
        status.code() == Code::NotFound && status.message() == "service not registered",
        format!("Check of an unknown service: {:?}", status.code()),
    );
    report.expect(
        text(&metadata, ROUTE) == check,
        "its metadata has the route, too",
    );

    let (metadata, mut messages, _) = client.watch(asked(SERVED)).await?.into_parts();
    let metadata = metadata.into_headers();
    report.received("Watch", "-", &metadata);
    let first = tokio::time::timeout(Duration::from_secs(10), messages.next())
        .await?
        .ok_or("Watch ended without a message")??;
    report.expect(
        first.status() == ServingStatus::Serving && text(&metadata, ROUTE) == watch,
        format!("Watch: first message {}", first.status().as_str_name()),
    );
    let watching = settled(handle, |snapshot| snapshot.in_flight == 1).await;
    report.expect(watching.in_flight == 1, "the open stream is in flight");
    drop(messages); // the client disconnects

    let elsewhere = MapRequest::new(channel, |mut request: http::Request<_>| {
        *request.uri_mut() = http::Uri::from_static("/grpc.health.v1.Health/Nothing");
        request
    });
    let unknown = HealthClient::new(elsewhere).check(asked(SERVED)).await;
    let unknown = unknown.err().ok_or("call of an unknown method succeeded")?;
    let code = (unknown.code() as i32).to_string();
    let metadata = unknown.metadata().clone().into_headers();
    report.received("Nothing", &code, &metadata);
    report.expect(
        unknown.code() == Code::Unimplemented && text(&metadata, ROUTE) == "{unmatched}",
        format!("unknown method: {:?}", unknown.code()),
    );

    report.expect_nothing_left(handle).await;
    let snapshot = handle.snapshot();
    let outcomes: Vec<_> = snapshot
        .routes
        .iter()
        .map(|seen| (seen.route.as_str(), format!("{:?}", seen.outcomes)))
        .collect();
    let completed = |n| format!("{{{:?}: {n}}}", Outcome::Completed);
    report.expect(
        outcomes
            == [
                ("{unmatched}", completed(1)),
                (check, completed(2)),
                (watch, format!("{{{:?}: 1}}", Outcome::Abandoned)),
            ],
        format!("statistics: {outcomes:?}"),
    );
    Ok(report.finish())
}

fn asked(service: &str) -> Request<HealthCheckRequest> {
    Request::new(HealthCheckRequest {
        service: service.to_owned(),
    })
}

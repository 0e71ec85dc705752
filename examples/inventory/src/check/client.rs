//! A client that sends JSON.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client as HyperClient, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::BoxError;

const JSON: &str = "application/json";

/// Time for an answer. Only a failing check reaches it.
const BOUND: Duration = Duration::from_secs(20);

#[derive(Clone)]
pub(super) struct Client {
    pub(super) addr: SocketAddr,
    http: HyperClient<HttpConnector, Full<Bytes>>,
}

pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) json: Value,
}

impl Answer {
    pub(super) fn detail(&self) -> &str {
        self.json["detail"].as_str().unwrap_or("")
    }

    /// Whether it is a problem description with this status and a detail.
    pub(super) fn is_problem(&self, status: u16) -> bool {
        self.status == status
            && self
                .headers
                .get("content-type")
                .is_some_and(|kind| kind == "application/problem+json")
            && self.json["status"] == status
            && !self.detail().is_empty()
    }
}

impl Client {
    pub(super) fn new(addr: SocketAddr) -> Self {
        let http = HyperClient::builder(TokioExecutor::new()).build_http();
        Self { addr, http }
    }

    pub(super) async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Result<Answer, BoxError> {
        let uri = format!("http://{}{path}", self.addr);
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body.into()))?;
        let exchange = async {
            let (head, body) = self.http.request(request).await?.into_parts();
            let body = body.collect().await?.to_bytes();
            Ok::<_, BoxError>(Answer {
                status: head.status,
                headers: head.headers,
                json: serde_json::from_slice(&body).unwrap_or(Value::Null),
            })
        };
        let answer = tokio::time::timeout(BOUND, exchange).await;
        answer.map_err(|_| format!("no response to {path} within {BOUND:?}"))?
    }

    pub(super) async fn get(&self, path: &str) -> Result<Answer, BoxError> {
        self.send(Method::GET, path, &[], "").await
    }

    pub(super) async fn order(
        &self,
        build: &str,
        key: &str,
        body: impl Into<Bytes>,
    ) -> Result<Answer, BoxError> {
        let headers = [("content-type", JSON), ("idempotency-key", key)];
        self.send(Method::POST, &format!("/{build}/orders"), &headers, body)
            .await
    }

    /// Sends the head of an order that announces `length` bytes, and `body`.
    pub(super) async fn begin_order(
        &self,
        build: &str,
        key: &str,
        body: &str,
        length: usize,
    ) -> std::io::Result<TcpStream> {
        let mut stream = TcpStream::connect(self.addr).await?;
        let head = format!(
            "POST /{build}/orders HTTP/1.1\r\nhost: x\r\ncontent-type: {JSON}\r\n\
             idempotency-key: {key}\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        stream.write_all(head.as_bytes()).await?;
        Ok(stream)
    }

    /// Sends less of an order than it announces, ends the sending side if that is wanted, and returns the answer.
    pub(super) async fn cut_off(
        &self,
        build: &str,
        body: &str,
        length: usize,
        end: bool,
    ) -> Result<String, BoxError> {
        let mut stream = self.begin_order(build, "cut", body, length).await?;
        if end {
            stream.shutdown().await?;
        }
        let mut answer = Vec::new();
        while !answer.ends_with(b"}") {
            let read = stream.read_buf(&mut answer);
            let read = tokio::time::timeout(BOUND, read).await;
            if read.map_err(|_| "no answer to a part of an order")?? == 0 {
                break;
            }
        }
        Ok(String::from_utf8(answer)?)
    }
}

//! Plain requests: any body, any content type, HTTP/1.1 or HTTP/2 with prior knowledge.

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::{http1, http2};
use hyper::http::response::Parts;
use hyper::{Request, Response, Version};
use hyper_util::rt::{TokioExecutor, TokioIo};
use kcl_core::internals::{TaskPolicy, TaskScope};
use kinesis_local::WireServer;
use tokio::net::TcpStream;

pub(crate) const JSON: &str = "application/x-amz-json-1.1";

/// An answer, read to its end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) content_type: String,
    pub(crate) date: String,
    pub(crate) version: Version,
    pub(crate) body: Bytes,
}

/// Sends a request on a connection of its own and returns the head of the answer.
pub(crate) async fn send(
    server: &WireServer,
    version: Version,
    target: &str,
    content_type: &str,
    body: impl Into<Bytes>,
) -> hyper::Result<Response<Incoming>> {
    let request = request(server, target, content_type, body);
    if version == Version::HTTP_2 {
        return http_2(server).await.send_request(request).await;
    }
    let (mut sender, connection) = http1::handshake(tcp(server).await).await?;
    TaskScope::new().spawn("client", TaskPolicy::Job, async { drop(connection.await) });
    sender.send_request(request).await
}

/// An HTTP/2 connection, without asking first whether the server speaks it.
pub(crate) async fn http_2(server: &WireServer) -> http2::SendRequest<Full<Bytes>> {
    let handshake = http2::handshake(TokioExecutor::new(), tcp(server).await);
    let (sender, connection) = handshake.await.unwrap();
    TaskScope::new().spawn("client", TaskPolicy::Job, async { drop(connection.await) });
    sender
}

async fn tcp(server: &WireServer) -> TokioIo<TcpStream> {
    TokioIo::new(TcpStream::connect(server.address()).await.unwrap())
}

pub(crate) fn request(
    server: &WireServer,
    target: &str,
    content_type: &str,
    body: impl Into<Bytes>,
) -> Request<Full<Bytes>> {
    Request::post(format!("{}/", server.endpoint()))
        .header("host", server.address().to_string())
        .header("content-type", content_type)
        .header("x-amz-target", format!("Kinesis_20131202.{target}"))
        .body(Full::new(body.into()))
        .unwrap()
}

pub(crate) async fn call(
    server: &WireServer,
    version: Version,
    target: &str,
    content_type: &str,
    body: impl Into<Bytes>,
) -> Answer {
    let response = send(server, version, target, content_type, body).await.unwrap();
    let header = |name| response.headers()[name].to_str().unwrap().to_owned();
    Answer {
        status: response.status().as_u16(),
        content_type: header("content-type"),
        date: header("date"),
        version: response.version(),
        body: response.into_body().collect().await.unwrap().to_bytes(),
    }
}

/// Sends any request without a body and reads the answer.
pub(crate) async fn ask(server: &WireServer, request: hyper::http::request::Builder) -> (Parts, Bytes) {
    let (mut sender, connection) = http1::handshake(tcp(server).await).await.unwrap();
    TaskScope::new().spawn("client", TaskPolicy::Job, async { drop(connection.await) });
    let request = request.body(Full::new(Bytes::new())).unwrap();
    let (head, body) = sender.send_request(request).await.unwrap().into_parts();
    (head, body.collect().await.unwrap().to_bytes())
}

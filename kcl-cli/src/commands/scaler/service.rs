//! The service: which method a path names, and the messages in and out.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::ready;
use futures_util::stream::{Stream, unfold};
use prost::Message;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service, http};
use tonic::server::{Grpc, NamedService};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

use super::messages::{
    GetMetricSpecResponse, GetMetricsRequest, GetMetricsResponse, IsActiveResponse, ScaledObjectRef,
};
use super::{Answer, Decider, STREAM_EVERY};

/// KEDA's service `externalscaler.ExternalScaler`.
#[derive(Clone)]
pub(super) struct ExternalScaler {
    decider: Arc<Decider>,
}

impl ExternalScaler {
    pub(super) fn new(decider: Arc<Decider>) -> Self {
        Self { decider }
    }
}

impl NamedService for ExternalScaler {
    const NAME: &'static str = "externalscaler.ExternalScaler";
}

/// Answers that follow each other.
struct Answers<R>(Pin<Box<dyn Stream<Item = Result<R, Status>> + Send>>);

impl<R> Stream for Answers<R> {
    type Item = Result<R, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.as_mut().poll_next(context)
    }
}

impl Service<http::Request<Body>> for ExternalScaler {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let decider = Arc::clone(&self.decider);
        let path = request.uri().path().to_owned();
        let answer = match path.rsplit('/').next().unwrap_or_default() {
            "IsActive" => unary(
                Method {
                    decider,
                    answer: is_active,
                },
                request,
            ),
            "StreamIsActive" => streaming(
                Method {
                    decider,
                    answer: stream_is_active,
                },
                request,
            ),
            "GetMetricSpec" => unary(
                Method {
                    decider,
                    answer: get_metric_spec,
                },
                request,
            ),
            "GetMetrics" => unary(
                Method {
                    decider,
                    answer: get_metrics,
                },
                request,
            ),
            other => {
                let status = Status::unimplemented(format!("there is no method {other}"));
                Box::pin(ready(status.into_http()))
            }
        };
        Box::pin(answer.map(Ok))
    }
}

/// An answer on the wire.
type WireAnswer = Pin<Box<dyn Future<Output = http::Response<Body>> + Send>>;

fn unary<Q, R>(method: Method<Q, R>, request: http::Request<Body>) -> WireAnswer
where
    Q: Message + Default + 'static,
    R: Message + 'static,
{
    Box::pin(async move { Grpc::new(ProstCodec::default()).unary(method, request).await })
}

fn streaming<Q, R>(method: Method<Q, Answers<R>>, request: http::Request<Body>) -> WireAnswer
where
    Q: Message + Default + 'static,
    R: Message + 'static,
{
    Box::pin(async move {
        Grpc::new(ProstCodec::default())
            .server_streaming(method, request)
            .await
    })
}

fn is_active(decider: Arc<Decider>, object: ScaledObjectRef) -> Answer<IsActiveResponse> {
    decider.is_active(object, Duration::ZERO)
}

/// Answers now and again and again. An error ends the stream, and KEDA opens another.
fn stream_is_active(decider: Arc<Decider>, object: ScaledObjectRef) -> Answer<Answers<IsActiveResponse>> {
    let answers = Box::pin(unfold(
        Some((decider, object, Duration::ZERO)),
        |state| async move {
            let (decider, object, wait) = state?;
            let answer = Arc::clone(&decider).is_active(object.clone(), wait).await;
            let next = answer.is_ok().then_some((decider, object, STREAM_EVERY));
            Some((answer, next))
        },
    ));
    Box::pin(ready(Ok(Answers(answers))))
}

fn get_metric_spec(decider: Arc<Decider>, _: ScaledObjectRef) -> Answer<GetMetricSpecResponse> {
    Box::pin(ready(Ok(decider.metric_spec())))
}

fn get_metrics(decider: Arc<Decider>, asked: GetMetricsRequest) -> Answer<GetMetricsResponse> {
    decider.metrics(asked.scaled_object_ref.unwrap_or_default())
}

/// A method from message to message, as the server wants one.
struct Method<Q, R> {
    decider: Arc<Decider>,
    answer: fn(Arc<Decider>, Q) -> Answer<R>,
}

impl<Q, R: 'static> Service<Request<Q>> for Method<Q, R> {
    type Response = Response<R>;
    type Error = Status;
    type Future = BoxFuture<Response<R>, Status>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Q>) -> Self::Future {
        let answer = (self.answer)(Arc::clone(&self.decider), request.into_inner());
        Box::pin(answer.map(|answer| answer.map(Response::new)))
    }
}

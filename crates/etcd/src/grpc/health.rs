//! Service `grpc.health.v1.Health`: a member that listens serves; etcd names no service but the whole.

use std::pin::Pin;

use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status};
use tonic_health::ServingStatus;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse, health_server};

use super::Api;

fn answer(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status as i32 }
}

#[tonic::async_trait]
impl health_server::Health for Api {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        if request.get_ref().service.is_empty() {
            return Ok(Response::new(answer(ServingStatus::Serving)));
        }
        Err(Status::not_found("unknown service"))
    }

    /// The state now, and when the member stops: gRPC wants the stream of an unknown service to stay open too.
    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let known = request.get_ref().service.is_empty();
        // Three is SERVICE_UNKNOWN, which the crate has no name for here.
        let first = if known { answer(ServingStatus::Serving) } else { HealthCheckResponse { status: 3 } };
        let mut ended = self.store.shared.ended.subscribe();
        let last = async move {
            let _ = ended.wait_for(|ended| *ended).await;
            Ok(answer(ServingStatus::NotServing))
        };
        let last = tokio_stream::StreamExt::filter(futures_util::stream::once(last), move |_| known);
        Ok(Response::new(Box::pin(tokio_stream::once(Ok(first)).chain(last))))
    }
}

use std::sync::{Mutex, PoisonError};

use tokio_util::sync::CancellationToken;

use crate::error::Error;

/// Why a worker must stop although nobody asked. The first reason counts.
#[derive(Debug, Default)]
pub(crate) struct Fatal {
    error: Mutex<Option<Error>>,
    raised: CancellationToken,
}

impl Fatal {
    pub(crate) fn raise(&self, error: Error) {
        if !self.raised.is_cancelled() {
            *self.error.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            self.raised.cancel();
        }
    }

    /// Returns once there is a reason. It is given out once.
    pub(crate) async fn raised(&self) -> Error {
        loop {
            self.raised.cancelled().await;
            if let Some(error) = self.error.lock().unwrap_or_else(PoisonError::into_inner).take() {
                return error;
            }
            std::future::pending::<()>().await;
        }
    }
}

use crate::error::Error;
use crate::monitor::Monitor;

/// Why a worker must stop although nobody asked. The first reason counts.
#[derive(Debug, Default)]
pub(crate) struct Fatal(Monitor<Reason>);

#[derive(Debug, Default)]
struct Reason {
    is_raised: bool,
    /// Until it is given out.
    error: Option<Error>,
}

impl Fatal {
    pub(crate) fn raise(&self, error: Error) {
        self.0.change(|reason| {
            if !std::mem::replace(&mut reason.is_raised, true) {
                reason.error = Some(error);
            }
        });
    }

    /// Returns once there is a reason. It is given out once.
    pub(crate) async fn raised(&self) -> Error {
        self.0.wait_to(|reason| reason.error.take()).await
    }
}

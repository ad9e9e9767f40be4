use crate::error::Error;
use crate::runtime::watched::Watched;

/// The reason for which a worker stops without being asked to. The first reason counts.
#[derive(Debug, Default)]
pub(crate) struct FatalError(Watched<FatalReason>);

#[derive(Debug, Default)]
struct FatalReason {
    is_raised: bool,
    /// Until it is given out.
    error: Option<Error>,
}

impl FatalError {
    pub(crate) fn raise(&self, error: Error) {
        self.0.modify(|reason| {
            if !std::mem::replace(&mut reason.is_raised, true) {
                reason.error = Some(error);
            }
        });
    }

    /// The reason, if there is one that was not given out.
    pub(crate) fn take(&self) -> Option<Error> {
        self.0.modify(|reason| reason.error.take())
    }

    /// Returns once there is a reason. It is given out once.
    pub(crate) async fn raised(&self) -> Error {
        self.0.wait_until(|reason| reason.error.take()).await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::error::ErrorKind;
    use crate::runtime::clock::BoxFuture;
    use crate::runtime::watched::explored::{explore_some, give_up_at_once, run_all};

    #[test]
    fn one_of_two_reasons_is_given_once() {
        explore_some(2000, || {
            let fatal = Arc::new(FatalError::default());
            let raise = |message: &'static str| -> BoxFuture<'static, ()> {
                let fatal = Arc::clone(&fatal);
                Box::pin(async move { fatal.raise(Error::new(ErrorKind::Mismatch, message)) })
            };
            let told = Arc::clone(&fatal);
            run_all(vec![
                raise("first"),
                raise("second"),
                Box::pin(async move { drop(told.raised().await) }),
            ]);
            fatal.raise(Error::new(ErrorKind::Mismatch, "third"));
            let again = shuttle::future::block_on(give_up_at_once(fatal.raised()));
            assert!(again.is_none());
        });
    }
}

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::consumer::Services;
use crate::lease::Scan;

pub(crate) struct Coordinator;
impl Coordinator {
    pub(crate) async fn run(self, leaving: CancellationToken) {
        leaving.cancelled().await;
    }
}
pub(crate) fn coordinator(_: &Arc<Services>, _: Scan) -> Coordinator {
    Coordinator
}

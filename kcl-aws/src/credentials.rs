//! Loads of credentials that outlive the calls that wait for them.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, SystemTime};

use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::identity::{
    Identity, IdentityCachePartition, IdentityFuture, ResolveCachedIdentity, ResolveIdentity as _,
    SharedIdentityResolver,
};
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::config_bag::ConfigBag;

/// How long before they expire credentials are loaded again, while the old ones are used on.
const REFRESH: Duration = Duration::from_secs(120);
/// How long before they expire credentials are not used any more: a request needs its time.
const MARGIN: Duration = Duration::from_secs(10);
/// How long to wait after a refresh, successful or not, before the next.
const PAUSE: Duration = Duration::from_secs(20);
/// How long credentials are used that do not say when they expire, as in the SDK.
const UNDATED: Duration = Duration::from_secs(15 * 60);
/// After how long a load is given up and started again.
const LONGEST_LOAD: Duration = Duration::from_secs(60);

/// The credentials of a client, as its identity cache.
///
/// The SDK's own cache drops a load with the call that waits for it, and after five seconds. So credentials that take longer than one call
/// were never had. Here a load goes on when the call is dropped that began it, and all calls share it: each poll of any of them
/// drives it. It starts two minutes before the old credentials expire, and no call waits for it before they do.
#[derive(Clone, Default)]
pub struct Credentials(Arc<Mutex<BTreeMap<IdentityCachePartition, Arc<Slot>>>>);

/// The credentials of one source.
#[derive(Default)]
struct Slot {
    known: Mutex<Known>,
    load: tokio::sync::Mutex<Option<Load>>,
}

#[derive(Default, Clone)]
struct Known {
    identity: Option<Identity>,
    expires: Option<SystemTime>,
    /// When the last refresh ended.
    refreshed: Option<SystemTime>,
    /// When they came.
    loaded: Option<SystemTime>,
}

struct Load {
    since: SystemTime,
    future: Loading,
}

type Loading = Pin<Box<dyn Future<Output = Result<Identity, BoxError>> + Send>>;

/// The use of the credentials that are known.
#[derive(Debug, PartialEq, Eq)]
enum Use {
    /// They are good.
    AsTheyAre,
    /// They are good, and it is time for new ones.
    AndRefresh,
    /// There are none, or they expire.
    Wait,
}

impl Known {
    fn judge(&self, now: SystemTime) -> Use {
        let (Some(_), Some(expires)) = (&self.identity, self.expires) else {
            return Use::Wait;
        };
        let left = expires.duration_since(now).unwrap_or_default();
        let is_recent = |then: Option<SystemTime>| {
            let age = then.and_then(|then| now.duration_since(then).ok());
            age.is_some_and(|age| age < PAUSE)
        };
        // The source had no better ones. On a host whose clock is fast they seem expired and are not.
        let came_old = |loaded| expires.duration_since(loaded).unwrap_or_default() <= MARGIN;
        if left <= MARGIN && is_recent(self.loaded) && self.loaded.is_some_and(came_old) {
            Use::AsTheyAre
        } else if left <= MARGIN {
            Use::Wait
        } else if left <= REFRESH && !is_recent(self.refreshed) {
            Use::AndRefresh
        } else {
            Use::AsTheyAre
        }
    }
}

impl Credentials {
    /// Forgets what was loaded: the service called it expired. A load that runs is still waited for.
    pub fn forget(&self) {
        for slot in lock(&self.0).values() {
            *lock(&slot.known) = Known::default();
        }
    }

    fn slot(&self, partition: IdentityCachePartition) -> Arc<Slot> {
        Arc::clone(lock(&self.0).entry(partition).or_default())
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").finish_non_exhaustive()
    }
}

impl Slot {
    fn learn(&self, loaded: &Result<Identity, BoxError>, now: SystemTime) {
        let mut known = lock(&self.known);
        known.refreshed = Some(now);
        if let Ok(identity) = loaded {
            known.expires = Some(identity.expiration().unwrap_or(now + UNDATED));
            known.identity = Some(identity.clone());
            known.loaded = Some(now);
        }
    }

    /// Drives a load without waiting for it.
    fn refresh(&self, resolver: SharedIdentityResolver, components: &RuntimeComponents, now: SystemTime) {
        // Another call drives it already.
        let Ok(mut slot) = self.load.try_lock() else {
            return;
        };
        let under_way = under_way(&mut slot, now, || load(resolver, components));
        let mut context = Context::from_waker(Waker::noop());
        if let Poll::Ready(loaded) = under_way.future.as_mut().poll(&mut context) {
            *slot = None;
            self.learn(&loaded, now);
            if let Err(error) = loaded {
                tracing::debug!(error = %crate::story(error.as_ref()), "credentials could not be renewed; the old ones are used on");
            }
        }
    }

    async fn wait(
        &self,
        resolver: SharedIdentityResolver,
        components: &RuntimeComponents,
    ) -> Result<Identity, BoxError> {
        self.wait_for(|| time(components), || load(resolver.clone(), components))
            .await
    }

    /// Waits for the load that is under way, or for one that begins now.
    async fn wait_for(
        &self,
        now: impl Fn() -> SystemTime,
        begin: impl Fn() -> Loading,
    ) -> Result<Identity, BoxError> {
        let mut slot = self.load.lock().await;
        // The call before this one may have had them.
        let known = lock(&self.known).clone();
        if let (Some(identity), Use::AsTheyAre | Use::AndRefresh) = (&known.identity, known.judge(now())) {
            return Ok(identity.clone());
        }
        let was_under_way = slot.is_some();
        let mut loaded = under_way(&mut slot, now(), &begin).future.as_mut().await;
        *slot = None;
        if loaded.is_err() && was_under_way {
            // Only calls drive a load: between two that come seldom it stands still, and its own deadlines pass.
            loaded = under_way(&mut slot, now(), &begin).future.as_mut().await;
            *slot = None;
        }
        self.learn(&loaded, now());
        loaded
    }
}

/// The load under way, or a new one where there is none or it hangs.
fn under_way(load: &mut Option<Load>, now: SystemTime, begin: impl FnOnce() -> Loading) -> &mut Load {
    let hangs = |load: &Load| {
        now.duration_since(load.since)
            .is_ok_and(|age| age >= LONGEST_LOAD)
    };
    if load.as_ref().is_some_and(hangs) {
        *load = None;
    }
    load.get_or_insert_with(|| Load {
        since: now,
        future: begin(),
    })
}

/// The configuration of one call cannot outlive it, and sources of credentials do not read it.
fn load(resolver: SharedIdentityResolver, components: &RuntimeComponents) -> Loading {
    let components = components.clone();
    Box::pin(async move {
        let bag = ConfigBag::base();
        resolver.resolve_identity(&components, &bag).await
    })
}

fn time(components: &RuntimeComponents) -> SystemTime {
    components.time_source().unwrap_or_default().now()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ResolveCachedIdentity for Credentials {
    fn resolve_cached_identity<'a>(
        &'a self,
        resolver: SharedIdentityResolver,
        components: &'a RuntimeComponents,
        _: &'a ConfigBag,
    ) -> IdentityFuture<'a> {
        let slot = self.slot(resolver.cache_partition());
        let now = time(components);
        let known = lock(&slot.known).clone();
        match (known.judge(now), known.identity) {
            (Use::AsTheyAre, Some(identity)) => IdentityFuture::ready(Ok(identity)),
            (Use::AndRefresh, Some(identity)) => {
                slot.refresh(resolver, components, now);
                IdentityFuture::ready(Ok(identity))
            }
            _ => IdentityFuture::new(async move { slot.wait(resolver, components).await }),
        }
    }
}

#[cfg(test)]
mod tests {
    use kcl_core::clock::{ClockExt as _, TokioClock};

    use super::*;

    #[test]
    fn credentials_are_renewed_before_they_expire() {
        let start = SystemTime::UNIX_EPOCH;
        let at = |seconds| start + Duration::from_secs(seconds);
        let known = Known {
            identity: Some(Identity::new("test", None)),
            expires: Some(at(1000)),
            refreshed: None,
            loaded: None,
        };
        let rows = [
            (0, Use::AsTheyAre),
            (879, Use::AsTheyAre),
            (880, Use::AndRefresh),
            (989, Use::AndRefresh),
            (990, Use::Wait),
            (5000, Use::Wait),
        ];
        for (seconds, expected) in rows {
            assert_eq!(known.judge(at(seconds)), expected, "{seconds}");
        }
        let refreshed = Known {
            refreshed: Some(at(900)),
            ..known
        };
        assert_eq!(refreshed.judge(at(919)), Use::AsTheyAre);
        assert_eq!(refreshed.judge(at(920)), Use::AndRefresh);
        let seems_expired = Known {
            loaded: Some(at(5000)),
            ..refreshed
        };
        assert_eq!(seems_expired.judge(at(5019)), Use::AsTheyAre);
        assert_eq!(seems_expired.judge(at(5020)), Use::Wait);
        assert_eq!(Known::default().judge(start), Use::Wait);
    }

    #[test]
    fn a_load_that_hangs_is_begun_again() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let mut begun = 0;
        let mut slot = None;
        for (seconds, expected) in [(100, 1), (159, 1), (160, 2), (219, 2), (50, 2)] {
            under_way(&mut slot, at(seconds), || {
                begun += 1;
                Box::pin(std::future::pending())
            });
            assert_eq!(begun, expected, "{seconds}");
        }
    }

    /// A load of two steps, which may take five seconds in all.
    fn two_steps() -> Loading {
        let clock = TokioClock::new();
        Box::pin(async move {
            let steps = async {
                clock.sleep(Duration::from_secs(1)).await;
                clock.sleep(Duration::from_secs(1)).await;
            };
            clock.timeout(Duration::from_secs(5), steps).await?;
            Ok(Identity::new("test", None))
        })
    }

    #[tokio::test(start_paused = true)]
    async fn load_that_stood_still_between_calls_is_repeated() {
        let (slot, clock) = (Slot::default(), TokioClock::new());
        let wait = || slot.wait_for(|| SystemTime::UNIX_EPOCH, two_steps);
        // Its first call gives up.
        assert!(clock.timeout(Duration::from_millis(1), wait()).await.is_err());
        clock.sleep(Duration::from_secs(30)).await;
        wait().await.unwrap();
    }
}

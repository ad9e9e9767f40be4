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
const REFRESH_BEFORE_EXPIRY: Duration = Duration::from_secs(120);
/// How long before they expire credentials are not used any more: a request needs its time.
const EXPIRY_MARGIN: Duration = Duration::from_secs(10);
/// How long to wait after a refresh, successful or not, before the next.
const REFRESH_INTERVAL: Duration = Duration::from_secs(20);
/// How long credentials are used that do not say when they expire, as in the SDK.
const DEFAULT_LIFETIME: Duration = Duration::from_secs(15 * 60);
/// After how long a load is given up and started again.
const MAX_LOAD_TIME: Duration = Duration::from_secs(60);

/// The credentials of a client, as its identity cache.
///
/// The SDK's own cache drops a load with the call that waits for it, and after five seconds. So credentials that take longer than one call
/// were never had. Here a load goes on when the call is dropped that began it, and all calls share it: each poll of any of them
/// drives it. It starts two minutes before the old credentials expire, and no call waits for it before they do.
#[derive(Clone, Default)]
pub struct CredentialsCache(Arc<Mutex<BTreeMap<IdentityCachePartition, Arc<SourceEntry>>>>);

/// The credentials of one source.
#[derive(Default)]
struct SourceEntry {
    known: Mutex<CachedIdentity>,
    load: tokio::sync::Mutex<Option<PendingLoad>>,
}

#[derive(Default, Clone)]
struct CachedIdentity {
    identity: Option<Identity>,
    expires: Option<SystemTime>,
    /// When the last refresh ended.
    refreshed: Option<SystemTime>,
    /// When they came.
    loaded: Option<SystemTime>,
}

struct PendingLoad {
    since: SystemTime,
    future: LoadFuture,
}

type LoadFuture = Pin<Box<dyn Future<Output = Result<Identity, BoxError>> + Send>>;

/// The use of the credentials that are known.
#[derive(Debug, PartialEq, Eq)]
enum Freshness {
    /// They are good.
    Fresh,
    /// They are good, and it is time for new ones.
    Refresh,
    /// There are none, or they expire.
    Expired,
}

impl CachedIdentity {
    fn freshness(&self, now: SystemTime) -> Freshness {
        let (Some(_), Some(expires)) = (&self.identity, self.expires) else {
            return Freshness::Expired;
        };
        let left = expires.duration_since(now).unwrap_or_default();
        let is_recent = |then: Option<SystemTime>| {
            let age = then.and_then(|then| now.duration_since(then).ok());
            age.is_some_and(|age| age < REFRESH_INTERVAL)
        };
        // The source had no better ones. On a host whose clock is fast they seem expired and are not.
        let came_old = |loaded| expires.duration_since(loaded).unwrap_or_default() <= EXPIRY_MARGIN;
        if left <= EXPIRY_MARGIN && is_recent(self.loaded) && self.loaded.is_some_and(came_old) {
            Freshness::Fresh
        } else if left <= EXPIRY_MARGIN {
            Freshness::Expired
        } else if left <= REFRESH_BEFORE_EXPIRY && !is_recent(self.refreshed) {
            Freshness::Refresh
        } else {
            Freshness::Fresh
        }
    }
}

impl CredentialsCache {
    /// Forgets what was loaded: the service called it expired. A load that runs is still waited for.
    pub fn forget(&self) {
        for slot in lock(&self.0).values() {
            *lock(&slot.known) = CachedIdentity::default();
        }
    }

    fn slot(&self, partition: IdentityCachePartition) -> Arc<SourceEntry> {
        Arc::clone(lock(&self.0).entry(partition).or_default())
    }
}

impl fmt::Debug for CredentialsCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CredentialsCache").finish_non_exhaustive()
    }
}

impl SourceEntry {
    fn store(&self, loaded: &Result<Identity, BoxError>, now: SystemTime) {
        let mut known = lock(&self.known);
        known.refreshed = Some(now);
        if let Ok(identity) = loaded {
            known.expires = Some(identity.expiration().unwrap_or(now + DEFAULT_LIFETIME));
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
        let pending_load = pending_load(&mut slot, now, || load(resolver, components));
        let mut context = Context::from_waker(Waker::noop());
        if let Poll::Ready(loaded) = pending_load.future.as_mut().poll(&mut context) {
            *slot = None;
            self.store(&loaded, now);
            if let Err(error) = loaded {
                tracing::debug!(error = %crate::error_chain(error.as_ref()), "credentials could not be renewed; the old ones are used on");
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
        begin: impl Fn() -> LoadFuture,
    ) -> Result<Identity, BoxError> {
        let mut slot = self.load.lock().await;
        // The call before this one may have had them.
        let known = lock(&self.known).clone();
        if let (Some(identity), Freshness::Fresh | Freshness::Refresh) =
            (&known.identity, known.freshness(now()))
        {
            return Ok(identity.clone());
        }
        let was_pending = slot.is_some();
        let mut loaded = pending_load(&mut slot, now(), &begin).future.as_mut().await;
        *slot = None;
        if loaded.is_err() && was_pending {
            // Only calls drive a load: between two that come seldom it stands still, and its own deadlines pass.
            loaded = pending_load(&mut slot, now(), &begin).future.as_mut().await;
            *slot = None;
        }
        self.store(&loaded, now());
        loaded
    }
}

/// The load under way, or a new one where there is none or it hangs.
fn pending_load(
    load: &mut Option<PendingLoad>,
    now: SystemTime,
    begin: impl FnOnce() -> LoadFuture,
) -> &mut PendingLoad {
    let hangs = |load: &PendingLoad| {
        now.duration_since(load.since)
            .is_ok_and(|age| age >= MAX_LOAD_TIME)
    };
    if load.as_ref().is_some_and(hangs) {
        *load = None;
    }
    load.get_or_insert_with(|| PendingLoad {
        since: now,
        future: begin(),
    })
}

/// The configuration of one call cannot outlive it, and sources of credentials do not read it.
fn load(resolver: SharedIdentityResolver, components: &RuntimeComponents) -> LoadFuture {
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

impl ResolveCachedIdentity for CredentialsCache {
    fn resolve_cached_identity<'a>(
        &'a self,
        resolver: SharedIdentityResolver,
        components: &'a RuntimeComponents,
        _: &'a ConfigBag,
    ) -> IdentityFuture<'a> {
        let slot = self.slot(resolver.cache_partition());
        let now = time(components);
        let known = lock(&slot.known).clone();
        match (known.freshness(now), known.identity) {
            (Freshness::Fresh, Some(identity)) => IdentityFuture::ready(Ok(identity)),
            (Freshness::Refresh, Some(identity)) => {
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
        let known = CachedIdentity {
            identity: Some(Identity::new("test", None)),
            expires: Some(at(1000)),
            refreshed: None,
            loaded: None,
        };
        let rows = [
            (0, Freshness::Fresh),
            (879, Freshness::Fresh),
            (880, Freshness::Refresh),
            (989, Freshness::Refresh),
            (990, Freshness::Expired),
            (5000, Freshness::Expired),
        ];
        for (seconds, expected) in rows {
            assert_eq!(known.freshness(at(seconds)), expected, "{seconds}");
        }
        let refreshed = CachedIdentity {
            refreshed: Some(at(900)),
            ..known
        };
        assert_eq!(refreshed.freshness(at(919)), Freshness::Fresh);
        assert_eq!(refreshed.freshness(at(920)), Freshness::Refresh);
        let seems_expired = CachedIdentity {
            loaded: Some(at(5000)),
            ..refreshed
        };
        assert_eq!(seems_expired.freshness(at(5019)), Freshness::Fresh);
        assert_eq!(seems_expired.freshness(at(5020)), Freshness::Expired);
        assert_eq!(CachedIdentity::default().freshness(start), Freshness::Expired);
    }

    #[test]
    fn a_load_that_hangs_is_begun_again() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let mut begun = 0;
        let mut slot = None;
        for (seconds, expected) in [(100, 1), (159, 1), (160, 2), (219, 2), (50, 2)] {
            pending_load(&mut slot, at(seconds), || {
                begun += 1;
                Box::pin(std::future::pending())
            });
            assert_eq!(begun, expected, "{seconds}");
        }
    }

    /// A load of two steps, which may take five seconds in all.
    fn two_steps() -> LoadFuture {
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
        let (slot, clock) = (SourceEntry::default(), TokioClock::new());
        let wait = || slot.wait_for(|| SystemTime::UNIX_EPOCH, two_steps);
        // Its first call gives up.
        assert!(clock.timeout(Duration::from_millis(1), wait()).await.is_err());
        clock.sleep(Duration::from_secs(30)).await;
        wait().await.unwrap();
    }
}

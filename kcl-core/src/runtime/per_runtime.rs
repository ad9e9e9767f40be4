//! Values that belong to a runtime.

use std::fmt;

use tokio::runtime::{Handle, Id};

use crate::runtime::lock::Locked;

/// How many runtimes have a value. Those that used theirs longest ago lose it: a runtime that has ended does not say so.
const MOST: usize = 32;

/// A value for each runtime that asks for it, for stores and sources that are called from several.
///
/// A worker calls its lease store from one runtime and reads its streams from another, whose threads user code may block. A connection that one of
/// them opens must not be used from the other: a pooled HTTP connection moves only while the runtime runs that opened it.
///
/// ```
/// # use kcl_core as kinesis_client;
/// use kinesis_client::clock::PerRuntime;
///
/// let pools = PerRuntime::new(|number| format!("pool of runtime {number}"));
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// assert_eq!(pools.get(), pools.get());
/// # });
/// ```
pub struct PerRuntime<T> {
    make: Box<dyn Fn(u64) -> T + Send + Sync>,
    /// The one used last comes last.
    made: Locked<Vec<(Option<Id>, T)>>,
}

impl<T: Clone> PerRuntime<T> {
    /// A value for each runtime, made when it is first asked for. `make` is given a number that no other runtime of the process has.
    pub fn new(make: impl Fn(u64) -> T + Send + Sync + 'static) -> Self {
        Self {
            make: Box::new(make),
            made: Locked::default(),
        }
    }

    /// The value of the current runtime. Code that runs on no runtime has one of its own.
    pub fn get(&self) -> T {
        let runtime = Handle::try_current().ok().map(|runtime| runtime.id());
        let mut made = self.made.lock();
        let place = made.iter().position(|(of, _)| *of == runtime);
        let value = match place {
            Some(place) => made.remove(place).1,
            None => {
                let number = runtime.and_then(|runtime| runtime.to_string().parse().ok());
                (self.make)(number.unwrap_or(0))
            }
        };
        made.push((runtime, value.clone()));
        let too_many = made.len().saturating_sub(MOST);
        made.drain(..too_many);
        value
    }
}

impl<T> fmt::Debug for PerRuntime<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PerRuntime").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn each_runtime_keeps_its_own_value() {
        let runtime = || tokio::runtime::Builder::new_current_thread().build().unwrap();
        let values = PerRuntime::new(|_| Arc::new(()));
        let get = || async { values.get() };
        let runtimes = [(); MOST].map(|()| runtime());
        let firsts: Vec<_> = runtimes.iter().map(|runtime| runtime.block_on(get())).collect();
        for (index, runtime) in runtimes.iter().enumerate() {
            let again = runtime.block_on(get());
            let same = firsts.iter().map(|first| Arc::ptr_eq(first, &again));
            assert!(same.eq((0..MOST).map(|other| other == index)));
        }
        let _one_too_many = runtime().block_on(get());
        assert!(Arc::ptr_eq(
            &firsts[MOST - 1],
            &runtimes[MOST - 1].block_on(get())
        ));
        assert!(
            !Arc::ptr_eq(&firsts[0], &runtimes[0].block_on(get())),
            "used longest ago"
        );
    }

    #[test]
    fn many_workers_in_a_process_keep_their_values() {
        let made = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&made);
        let values = PerRuntime::new(move |_| count.fetch_add(1, Ordering::Relaxed));
        let runtime = || tokio::runtime::Builder::new_current_thread().build().unwrap();
        // Each worker coordinates on a runtime of its own.
        let workers = [(); 20].map(|()| runtime());
        for _ in 0..3 {
            for worker in &workers {
                worker.block_on(async { values.get() });
            }
        }
        assert_eq!(made.load(Ordering::Relaxed), workers.len());
    }
}

//! Runs a model and reports the result.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use stateright::{Checker as _, Expectation, HasDiscoveries, Model};

/// The findings of a run.
#[derive(Debug)]
pub struct Report {
    pub name: String,
    /// How many different states there are.
    pub states: usize,
    /// How many steps lead from state to state.
    pub steps: usize,
    /// How many steps the longest way takes.
    pub depth: usize,
    /// How many properties were checked.
    pub properties: usize,
    pub took: Duration,
    /// The properties that do not hold, each with the way to a state in which it does not.
    pub broken: BTreeMap<&'static str, String>,
    /// The states that should be reachable, and were not reached.
    pub unreached: Vec<&'static str>,
}

impl Report {
    /// Whether every property holds, and what should be reachable is.
    pub fn holds(&self) -> bool {
        self.broken.is_empty() && self.unreached.is_empty()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name,
            states,
            steps,
            depth,
            properties,
            took,
            ..
        } = self;
        write!(
            f,
            "{name:<44} {states:>9} states {steps:>10} steps  depth {depth:>3}  {properties:>2} properties  {:>7.1} s",
            took.as_secs_f64()
        )?;
        for (property, way) in &self.broken {
            write!(f, "\n  BROKEN: {property}\n{way}")?;
        }
        for property in &self.unreached {
            write!(f, "\n  NEVER REACHED: {property}")?;
        }
        Ok(())
    }
}

/// Goes through every state of the model; stops early only when a property is broken.
pub fn check<M>(name: impl Into<String>, model: M) -> Report
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + fmt::Debug + PartialEq + std::hash::Hash + Send + Sync + 'static,
    M::Action: Clone + fmt::Debug + PartialEq + Send + Sync + 'static,
{
    let properties = model.properties();
    #[expect(
        clippy::disallowed_methods,
        reason = "how long a program took is a matter of the real time"
    )]
    let begun = std::time::Instant::now();
    let checker = model
        .checker()
        .finish_when(HasDiscoveries::AnyFailures)
        .spawn_bfs()
        .join();
    let discoveries = checker.discoveries();
    let mut broken = BTreeMap::new();
    let mut unreached = Vec::new();
    for property in &properties {
        match (&property.expectation, discoveries.get(property.name)) {
            (Expectation::Sometimes, None) => unreached.push(property.name),
            (Expectation::Sometimes, Some(_)) | (_, None) => {}
            (Expectation::Always | Expectation::Eventually, Some(path)) => {
                let steps = path.clone().into_vec();
                let actions = steps.iter().filter_map(|(_, action)| action.as_ref());
                let mut way: Vec<String> = actions.map(|action| format!("    {action:?}")).collect();
                way.extend(steps.last().map(|(state, _)| format!("  {state:?}")));
                broken.insert(property.name, way.join("\n"));
            }
        }
    }
    if !broken.is_empty() {
        // The run ended there.
        unreached.clear();
    }
    Report {
        name: name.into(),
        states: checker.unique_state_count(),
        steps: checker.state_count(),
        depth: checker.max_depth(),
        properties: properties.len(),
        took: begun.elapsed(),
        broken,
        unreached,
    }
}

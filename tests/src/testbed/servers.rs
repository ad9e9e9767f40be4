//! Where the servers answer, and how the testbed speaks of them.

use std::io::Write;

/// Where the servers answer.
#[derive(Debug, Clone)]
pub(super) struct Servers {
    pub(super) kind: String,
    pub(super) kinesis: String,
    /// Never empty.
    pub(super) dynamo: Vec<DynamoServer>,
}

#[derive(Debug, Clone)]
pub(super) struct DynamoServer {
    pub(super) name: String,
    pub(super) endpoint: String,
}

impl Servers {
    pub(super) fn first_dynamo(&self) -> &DynamoServer {
        self.dynamo.first().expect("a testbed has at least one DynamoDB")
    }

    pub(super) fn endpoints(&self) -> impl Iterator<Item = (&str, &str)> {
        let dynamo = self
            .dynamo
            .iter()
            .map(|server| (server.name.as_str(), server.endpoint.as_str()));
        std::iter::once((self.kind.as_str(), self.kinesis.as_str())).chain(dynamo)
    }

    pub(super) fn names(&self) -> String {
        self.endpoints()
            .map(|(name, _)| name)
            .collect::<Vec<_>>()
            .join(", ")
    }
}

/// Prints past the output capture of the test harness.
pub(super) fn say(line: &str) {
    // Nobody reads it, then.
    let _ = writeln!(std::io::stderr(), "testbed: {line}");
}

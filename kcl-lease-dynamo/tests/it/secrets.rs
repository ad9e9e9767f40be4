//! Nothing that is secret is in an error or in the log: no key, no token.

use std::error::Error as StdError;

use kcl_core::Causes;
use kcl_core::lease_store::{LeaseStore as _, StoreError};
use serde_json::Value;

use crate::log::Log;
use crate::server::{Server, error_saying};
use crate::tables::{calls, preparation, usual};

const TOKEN: &str = "IQoJb3JpZ2luX2VjEKr//////////wEaCWV1LXdlc3QtMSJHMEUCIQDcanary0123456789";

const CODES: [&str; 14] = [
    "InvalidSignatureException",
    "SignatureDoesNotMatch",
    "IncompleteSignature",
    "UnrecognizedClientException",
    "MissingAuthenticationToken",
    "ExpiredTokenException",
    "AccessDeniedException",
    "ValidationException",
    "SerializationException",
    "ResourceNotFoundException",
    "LimitExceededException",
    "InternalServerError",
    "OfTheFutureException",
    "",
];

/// Everything that an error shows, to the last cause.
fn shown(error: &StoreError) -> String {
    let mut shown = format!("{error} {error:?} {error:#?}");
    let mut cause = error.source();
    while let Some(next) = cause {
        shown = format!("{shown} {next} {next:?}");
        cause = next.source();
    }
    shown
}

#[tokio::test]
async fn no_secret_is_in_errors_or_logs() {
    let log = Log::start();
    let server = Server::start().await;
    let store = server.store();
    server
        .while_running(usual, store.prepare(&preparation()))
        .await
        .unwrap();
    let messages = [
        format!("the request was x-amz-security-token:{TOKEN}"),
        format!("The Canonical String should have been\n'POST\n\nx-amz-security-token:{TOKEN}'"),
        format!("a token {TOKEN} and \"{TOKEN}\" of it"),
    ];
    for code in CODES {
        for message in &messages {
            let script = |_: &str, _: &Value| error_saying(400, code, message);
            let mut errors = Vec::new();
            for (_, call) in calls(&store) {
                errors.extend(server.while_running(script, call).await.err());
            }
            let preparation = preparation();
            let prepare = server.store();
            let prepare = prepare.prepare(&preparation);
            errors.extend(server.while_running(script, prepare).await.err());
            assert!(!errors.is_empty());
            for error in errors {
                let shown = shown(&error);
                assert!(!shown.contains("canary"), "{code}: {shown}");
            }
        }
    }
    let log = log.text();
    assert!(log.contains("lease table is ready"), "nothing was logged");
    assert!(!log.contains("canary"), "{log}");
}

#[tokio::test]
async fn an_error_is_said_once() {
    let server = Server::start().await;
    let store = server.store();
    server
        .while_running(usual, store.prepare(&preparation()))
        .await
        .unwrap();
    for code in CODES {
        let script = |_: &str, _: &Value| error_saying(400, code, "no such thing");
        for (operation, call) in calls(&store) {
            let Err(error) = server.while_running(script, call).await else {
                continue;
            };
            let causes = Causes(&error).to_string();
            assert!(
                causes.matches("no such thing").count() <= 1,
                "{operation}: {causes}"
            );
            assert!(
                code.is_empty() || causes.matches(code).count() == 1,
                "{operation}: {causes}"
            );
        }
    }
}

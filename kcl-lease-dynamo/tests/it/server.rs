//! A server that speaks just enough of DynamoDB's wire format to play a script and to remember what it was asked.

use std::sync::{Mutex, PoisonError};

use aws_config::{BehaviorVersion, Region, SdkConfig};
use kcl_lease_dynamo::DynamoLeaseStore;
use kcl_lease_dynamo::aws_sdk_dynamodb::config::{Credentials, SharedCredentialsProvider};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// One request: the operation's name and its input.
pub(crate) type Asked = (String, Value);

pub(crate) struct Server {
    listener: TcpListener,
    asked: Mutex<Vec<Asked>>,
}

/// An answer of the server: a status and a body.
pub(crate) type Answer = (u16, Value);

/// A success.
pub(crate) fn ok(body: Value) -> Answer {
    (200, body)
}

/// An error as the service words it.
pub(crate) fn error(status: u16, code: &str) -> Answer {
    let kind = format!("com.amazonaws.dynamodb.v20120810#{code}");
    (status, json!({ "__type": kind, "message": "said by the script" }))
}

/// An error that says this.
pub(crate) fn error_saying(status: u16, code: &str, message: &str) -> Answer {
    (status, json!({ "__type": code, "message": message }))
}

/// A configuration with credentials, for this endpoint.
pub(crate) fn config(endpoint: &str) -> SdkConfig {
    let credentials = Credentials::new("test", "test", None, None, "test");
    SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("eu-west-1"))
        .credentials_provider(SharedCredentialsProvider::new(credentials))
        .endpoint_url(endpoint)
        .build()
}

impl Server {
    pub(crate) async fn start() -> Self {
        Self {
            listener: TcpListener::bind("127.0.0.1:0").await.unwrap(),
            asked: Mutex::default(),
        }
    }

    pub(crate) fn store(&self) -> DynamoLeaseStore {
        self.store_of("leases")
    }

    pub(crate) fn store_of(&self, table: &str) -> DynamoLeaseStore {
        DynamoLeaseStore::new(&config(&self.endpoint()), table)
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.listener.local_addr().unwrap())
    }

    /// Answers by the script while the client runs, and gives back what the client ended with.
    pub(crate) async fn while_running<T>(
        &self,
        script: impl FnMut(&str, &Value) -> Answer,
        client: impl Future<Output = T>,
    ) -> T {
        tokio::select! {
            biased;
            output = client => output,
            () = self.serve(script) => panic!("the server ended"),
        }
    }

    /// Returns the requests so far, and forgets them.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut *self.asked.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The names of the operations asked so far, and forgets them.
    pub(crate) fn operations(&self) -> Vec<String> {
        self.asked().into_iter().map(|(operation, _)| operation).collect()
    }

    async fn serve(&self, mut script: impl FnMut(&str, &Value) -> Answer) {
        loop {
            let (mut connection, _) = self.listener.accept().await.unwrap();
            let Some((operation, input)) = request(&mut connection).await else {
                continue;
            };
            let (status, body) = script(&operation, &input);
            self.asked
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push((operation, input));
            let body = body.to_string();
            let head = format!(
                "HTTP/1.1 {status} Scripted\r\ncontent-type: application/x-amz-json-1.0\r\ncontent-length: {}\r\n\
                 connection: close\r\n\r\n",
                body.len()
            );
            // A client that gave up is no concern of the server's.
            let _ = connection.write_all(format!("{head}{body}").as_bytes()).await;
        }
    }
}

/// Reads one request; `None` when the client closed the connection first.
async fn request(connection: &mut TcpStream) -> Option<Asked> {
    let mut bytes = Vec::new();
    loop {
        if connection.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
            return None;
        }
        let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
            continue;
        };
        let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
        let header = |name: &str| {
            head.lines()
                .find_map(|line| line.strip_prefix(name).map(|value| value.trim().to_owned()))
        };
        let length: usize = header("content-length:").map_or(0, |length| length.parse().unwrap());
        let body = &bytes[end + 4..];
        if body.len() >= length {
            let target = String::from_utf8_lossy(&bytes[..end]).lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case("x-amz-target")
                    .then(|| value.trim().to_owned())
            })?;
            let operation = target.split_once('.').unwrap().1.to_owned();
            return Some((operation, serde_json::from_slice(body).unwrap()));
        }
    }
}

//! LocalStack in a container, where a Docker engine answers.

use std::path::Path;
use std::time::Duration;

use testcontainers::core::{IntoContainerPort, Mount, WaitFor};
use testcontainers::runners::AsyncRunner;
use testcontainers::{GenericImage, ImageExt};

use super::servers::{DynamoServer, Servers, say};
use super::shared::{IDLE, Lock, Run};

const IMAGE: &str = "localstack/localstack";
/// Newer images ask for an account's token, and `latest` is a newer image.
const TAG: &str = "4.14";
const PORT: u16 = 4566;
/// Includes pulling an image of about a gigabyte.
const START_WITHIN: Duration = Duration::from_secs(300);

/// Finds the container that another process of this run started, or starts it.
///
/// # Errors
///
/// Why there is none: no Docker engine, no image, or LocalStack did not come up.
pub(super) async fn servers(root: &Path) -> Result<Servers, String> {
    // Everything of this kind has its own folder, so that it is never mistaken for the local servers.
    let root = &root.join("docker");
    std::fs::create_dir_all(root).map_err(|error| error.to_string())?;
    let _lock = Lock::acquire(root).map_err(|error| error.to_string())?;
    if let Some(servers) = Run::reuse(root) {
        return Ok(servers);
    }
    let run = Run::create(root).map_err(|error| error.to_string())?;
    let started = start(run.folder()).await;
    match started {
        Ok(servers) => {
            run.publish(root, &servers).map_err(|error| error.to_string())?;
            Ok(servers)
        }
        Err(why) => {
            run.forget();
            Err(format!("no LocalStack container: {why}"))
        }
    }
}

async fn start(lease_folder: &Path) -> Result<Servers, testcontainers::TestcontainersError> {
    let container = GenericImage::new(IMAGE, TAG)
        .with_entrypoint("bash")
        .with_exposed_port(PORT.tcp())
        .with_wait_for(WaitFor::message_on_either_std("Ready."))
        .with_cmd(["-c".to_owned(), until_idle()])
        .with_mount(Mount::bind_mount(lease_folder.to_string_lossy(), "/lease"))
        .with_env_var("SERVICES", "kinesis,dynamodb,sts")
        .with_env_var("EAGER_SERVICE_LOADING", "1")
        .with_env_var("DYNAMODB_IN_MEMORY", "1")
        .with_env_var("DYNAMODB_SHARE_DB", "1")
        .with_env_var("KINESIS_SHARD_LIMIT", "500")
        .with_env_var("DISABLE_EVENTS", "1")
        .with_startup_timeout(START_WITHIN)
        .with_host_config_modifier(|host| host.auto_remove = Some(true))
        .start()
        .await?;
    let endpoint = format!(
        "http://{}:{}",
        container.get_host().await?,
        container.get_host_port_ipv4(PORT.tcp()).await?
    );
    say(&format!("{IMAGE}:{TAG} runs at {endpoint}"));
    // Dropping the handle would remove the container; it is there for the whole run and ends by its lease.
    std::mem::forget(container);
    Ok(Servers {
        kind: "LocalStack in a container".to_owned(),
        kinesis: endpoint.clone(),
        dynamo: vec![DynamoServer {
            name: "localstack".to_owned(),
            endpoint,
        }],
    })
}

/// The container's main process: LocalStack, until nobody has touched the lease for a while.
fn until_idle() -> String {
    let idle = IDLE.as_secs();
    format!(
        "docker-entrypoint.sh & server=$!; \
         while kill -0 $server && [ -n \"$(find /lease/lease -newermt '-{idle} seconds')\" ]; do sleep 2; done; \
         kill $server; wait $server"
    )
}

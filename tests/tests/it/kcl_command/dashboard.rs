//! `kcl serve` in a real browser: drawn, live, and with orders.

use std::path::PathBuf;
use std::process::Child;
use std::sync::Arc;

use async_trait::async_trait;
use kcl_core::Worker;
use kcl_core::clock::{Clock as _, Rng, TokioClock};
use kcl_core::lease_store::{Expect, Lease, LeaseChange, LeaseStore as _, WorkerChange};
use kcl_core::processor::{ProcessorError, RecordBatch, RecordProcessor, ShardContext};
use kcl_core::types::{Incarnation, Position, ShardId, WorkerId};
use kcl_kinesis::KinesisStream;
use kcl_lease_dynamo::DynamoLeaseStore;
use kcl_tests::chaos::fault::{Disturbance, NetworkFault, Service};
use kcl_tests::chaos::proxy::Proxy;
use kcl_tests::command::{Kcl, PaperFleet, worker_row};
use kcl_tests::testbed::{Browser, Colours, Testbed};
use kcl_tests::testbed_or_skip;
use kcl_tests::wait::eventually;
use serde_json::{Value, json};

use super::{PATIENCE, kcl, prepared};

/// The application of the fleet that runs, in a table of its own name.
const APPLICATION: &str = "truck-tracker";
/// Names the folder that screenshots are written to, instead of the scratch folder.
const SCREENSHOTS: &str = "KCL_TEST_SCREENSHOTS";

struct Nothing;

#[async_trait]
impl RecordProcessor for Nothing {
    async fn process_records(&mut self, _: RecordBatch, _: &ShardContext) -> Result<(), ProcessorError> {
        Ok(())
    }
}

/// A dashboard that serves; it ends when it is dropped.
struct Serving {
    child: Child,
    url: String,
}

impl Serving {
    async fn start(kcl: &Kcl, arguments: &[&str]) -> Self {
        let listen = ["--listen", "127.0.0.1:0", "--interval", "0.5"];
        let (child, _, complaint) = kcl.start(&[&["serve"], arguments, &listen].concat(), "serve");
        let mut serving = Self {
            child,
            url: String::new(),
        };
        serving.url = eventually(PATIENCE, async || {
            let said = std::fs::read_to_string(&complaint).unwrap();
            let url = said
                .split("at http://")
                .nth(1)
                .and_then(|rest| rest.split('/').next());
            url.map(|url| format!("http://{url}/")).ok_or(said)
        })
        .await;
        serving
    }

    /// Interrupts it, and returns its exit code.
    #[cfg(unix)]
    async fn interrupt(mut self) -> Option<i32> {
        let id = self.child.id().to_string();
        let sent = std::process::Command::new("kill").args(["-INT", &id]).status();
        assert!(sent.unwrap().success());
        eventually(PATIENCE, async || match self.child.try_wait() {
            Ok(Some(status)) => Ok(status.code()),
            other => Err(format!("{other:?}")),
        })
        .await
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Opens the page and waits until the shards are drawn. Returns how long that took, in milliseconds.
async fn open(browser: &mut Browser, url: &str) -> u64 {
    let code = "await page.goto(given); await page.waitForSelector('rect.bar', { timeout: 60000 });
        return page.evaluate(() => performance.getEntriesByName('kcl-drawn')[0].startTime);";
    browser.run(code, &json!(url)).await.as_f64().unwrap_or(0.0) as u64
}

/// The folder for screenshots of the documentation.
fn screenshots(testbed: &Testbed) -> PathBuf {
    std::env::var_os(SCREENSHOTS).map_or_else(|| testbed.scratch(), PathBuf::from)
}

/// Writes the page as it is shown into this folder.
async fn shoot(browser: &mut Browser, folder: PathBuf, name: &str, whole: bool) {
    let file = folder.join(format!("dashboard-{name}.png"));
    let given = json!({ "path": file, "fullPage": whole });
    browser.run("await page.screenshot(given)", &given).await;
    assert!(std::fs::metadata(file).unwrap().len() > 10_000);
}

async fn assert_no_complaint(browser: &mut Browser) {
    let complaints = browser.run("return complaints", &Value::Null).await;
    assert_eq!(complaints, json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn thousand_shards_are_drawn_in_a_browser() {
    let testbed = testbed_or_skip!();
    let mut browser = match Browser::start(Colours::Dark).await {
        Ok(browser) => browser,
        Err(left_out) => return left_out.report("the dashboard with 1,000 shards"),
    };
    let kcl = kcl(&testbed, "kcl-serve-many");
    let app = testbed.unique("kcl-serve-many");
    let store = prepared(&testbed, &app).await;
    let fleet = PaperFleet {
        shards: 1000,
        workers: 50,
        stream: "trucks".to_owned(),
    };
    fleet.write(&store).await;
    let serving = Serving::start(&kcl, &[&app]).await;
    let drawn = open(&mut browser, &serving.url).await;
    println!("1,000 shards were drawn {drawn} ms after the page was asked for");
    let code = "await page.locator('#colours input[value=lag]').check();
        const wide = await page.locator('rect.bar').evaluateAll((bars) => bars.filter((bar) => bar.getBoundingClientRect().width > 0.5).length);
        return [await page.locator('rect.bar').count(), wide, await page.locator('#shards tbody tr').count(), await page.locator('#workers tbody tr').count()];";
    let counts = browser.run(code, &Value::Null).await;
    assert_eq!(counts, json!([1000, 1000, 1000, 50]));
    shoot(&mut browser, testbed.scratch(), "many", false).await;
    let code = "await page.fill('#filter', 'worker-07 ok'); return page.locator('#shards tbody tr').count();";
    assert_eq!(browser.run(code, &Value::Null).await, 20);
    let code = "await page.locator('#shards tbody button').first().click(); await page.waitForSelector('.why p');
        return [await page.locator('#panel [data-order]').count(), await page.locator('#panel').innerText()];";
    let panel = browser.run(code, &Value::Null).await;
    assert_eq!(panel[0], 0, "no buttons unless orders are allowed");
    let text = panel[1].as_str().unwrap();
    assert!(
        text.contains("--allow-orders") && text.contains("worker-07.trucks.example has it"),
        "{text}"
    );
    assert_no_complaint(&mut browser).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_names_are_shown_as_text() {
    const HOSTILE: &str = "<img src=x onerror=\"document.title='hacked'\">";
    let testbed = testbed_or_skip!();
    let mut browser = match Browser::start(Colours::Light).await {
        Ok(browser) => browser,
        Err(left_out) => return left_out.report("the dashboard with hostile names"),
    };
    let kcl = kcl(&testbed, "kcl-serve-hostile");
    let app = testbed.unique("kcl-serve-hostile");
    let store = prepared(&testbed, &app).await;
    let run = Incarnation::from_random_bytes([3; 16]);
    let id: WorkerId = HOSTILE.parse().unwrap();
    let row = worker_row(&id, run, TokioClock::new().wall());
    store.change_worker(&WorkerChange::Announce(row)).await.unwrap();
    PaperFleet {
        shards: 2,
        workers: 2,
        stream: HOSTILE.to_owned(),
    }
    .write(&store)
    .await;
    let shard = ShardId::new("shardId-\"><script>alert(1)</script>").unwrap();
    let mut lease = Lease::unowned(shard, Position::TrimHorizon);
    lease.owner = Some(id);
    lease.counter = 1;
    let created = LeaseChange::Create(Box::new(lease.clone()));
    store
        .change(&lease.key, &Expect::Absent, &created, run)
        .await
        .unwrap();

    let serving = Serving::start(&kcl, &[&app]).await;
    open(&mut browser, &serving.url).await;
    let code = "await page.locator('#shards button.link', { hasText: 'script' }).click(); await page.waitForSelector('.why p');
        const apart = await page.locator('.apart:visible').innerText();
        return { apart, panel: await page.locator('#panel').innerText(), workers: await page.locator('#workers').innerText(),
            made: await page.locator('img, script:not([src])').count(), title: await page.title() };";
    let seen = browser.run(code, &Value::Null).await;
    let contains = |name: &str, text: &str| seen[name].as_str().unwrap().contains(text);
    assert!(
        contains("workers", HOSTILE) && contains("panel", HOSTILE),
        "{seen:#}"
    );
    assert!(
        contains("apart", "Hash range unknown: shardId-\"><script>"),
        "{seen:#}"
    );
    assert_eq!(seen["made"], 0, "{seen:#}");
    assert!(!contains("title", "hacked"), "{seen:#}");
    assert_no_complaint(&mut browser).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn page_says_when_table_is_away() {
    let testbed = testbed_or_skip!();
    let mut browser = match Browser::start(Colours::Light).await {
        Ok(browser) => browser,
        Err(left_out) => return left_out.report("the dashboard without its table"),
    };
    let rng = Rng::from_seed(1);
    let proxy = Proxy::start(
        Service::Dynamo,
        testbed.dynamo_endpoint(),
        rng,
        Arc::new(|_, _, _| {}),
    );
    let proxy = proxy.await.unwrap();
    let kcl = kcl(&testbed, "kcl-serve-away").with("AWS_ENDPOINT_URL_DYNAMODB", proxy.endpoint());
    let app = testbed.unique("kcl-serve-away");
    let store = prepared(&testbed, &app).await;
    let fleet = PaperFleet {
        shards: 2,
        workers: 2,
        stream: "trucks".to_owned(),
    };
    fleet.write(&store).await;
    let serving = Serving::start(&kcl, &[&app, "--timeout", "2"]).await;
    open(&mut browser, &serving.url).await;
    proxy.disturb(Some(Disturbance::always(NetworkFault::BlackHole)));
    let said = "await page.waitForSelector('#problem:not([hidden])', { timeout: 60000 });
        return [await page.locator('#problem').innerText(), await page.locator('rect.bar').count()];";
    let said = browser.run(said, &Value::Null).await;
    let text = said[0].as_str().unwrap();
    assert!(
        text.contains("cannot be read") && text.contains("Shown is the look of"),
        "{text}"
    );
    assert_eq!(said[1], 2, "the last good look stays");
    proxy.disturb(None);
    let code = "await page.waitForSelector('#problem', { state: 'hidden', timeout: 60000 })";
    browser.run(code, &Value::Null).await;
    assert_no_complaint(&mut browser).await;
}

/// Everything is done with keys: to the shard, into the reason, to the button.
const ORDER_BY_KEYS: &str = "
    const press = (key) => page.keyboard.press(key);
    const until = async (selector) => {
        for (let tries = 0; tries < 200; tries += 1) {
            if (await page.evaluate((wanted) => document.activeElement?.matches(wanted) ?? false, selector)) return;
            await press('Tab');
        }
        throw new Error(`no way by Tab to ${selector}`);
    };
    await page.evaluate(() => document.activeElement?.blur());
    await until(`#shards tr[data-id=\"${given.lease}\"] button`);
    await press('Enter');
    await page.waitForSelector('#panel:not([hidden])');
    await until('#reason');
    await page.keyboard.type(given.reason);
    await until(`[data-order=${given.order}]`);
    await press(given.order === 'pause' ? 'Space' : 'Enter');
    await page.waitForSelector('.answer.good', { timeout: 60000 });
    const answer = await page.locator('.answer').innerText();
    await page.waitForFunction((state) => document.querySelector('#panel .badge').textContent === state, given.state, { timeout: 60000 });
    await page.waitForFunction((reason) => document.querySelector('.history').textContent.includes(reason), given.reason);
    if (given.shot) await page.screenshot({ path: given.shot });
    await press('Escape');
    const back = await page.evaluate(() => document.activeElement.textContent);
    return { answer, back, isClosed: await page.locator('#panel').isHidden() };
";

#[tokio::test(flavor = "multi_thread")]
async fn reshards_and_orders_are_seen_live() {
    let testbed = testbed_or_skip!();
    let mut browser = match Browser::start(Colours::Light).await {
        Ok(browser) => browser,
        Err(left_out) => return left_out.report("the dashboard of a running fleet"),
    };
    let mut dark = Browser::start(Colours::Dark).await.expect("it started before");
    let kcl = kcl(&testbed, "kcl-serve");
    let (table, stream) = (testbed.unique("truck-tracker"), testbed.unique("trucks"));
    testbed.create_stream(&stream, 4).await;
    let start = |name: &str| {
        Worker::builder(APPLICATION)
            .worker_id(name)
            .stream(KinesisStream::new(&testbed.kinesis_config(), &stream))
            .lease_store(DynamoLeaseStore::new(&testbed.dynamo_config(), &table))
            .processor(|_: &ShardContext| Nothing)
            .build()
            .unwrap()
            .start()
    };
    let workers = [start("worker-1"), start("worker-2")];
    for worker in &workers {
        worker.wait_for(|status| status.leases.len() == 2).await;
    }
    let serving = Serving::start(
        &kcl,
        &[
            APPLICATION,
            "--table",
            &table,
            "--allow-orders",
            "--author",
            "ana",
        ],
    )
    .await;
    open(&mut browser, &serving.url).await;
    let loaded = "return page.evaluate(() => performance.timeOrigin)";
    let before = browser.run(loaded, &Value::Null).await;

    let seen = "await page.waitForFunction((text) => document.querySelector('#changes').textContent.includes(text), given, { timeout: 90000 })";
    let open_shards = testbed.open_shards(&stream).await;
    testbed.split(&stream, &open_shards[0]).await;
    let split = "shardId-000000000000 split into shardId-000000000004 and shardId-000000000005.";
    browser.run(seen, &json!(split)).await;
    testbed.merge(&stream, &open_shards[2], &open_shards[3]).await;
    let merged = "shardId-000000000002 and shardId-000000000003 merged into shardId-000000000006.";
    browser.run(seen, &json!(merged)).await;
    let drawn = "return [await page.locator('rect.bar').count(), await page.locator('path.line').count(), await page.locator('rect.bar.ended').count()]";
    eventually(PATIENCE, async || match browser.run(drawn, &Value::Null).await {
        drawn if drawn == json!([7, 4, 3]) => Ok(()),
        other => Err(other),
    })
    .await;

    // Until every consumer has reported, so that the picture is of a fleet that runs.
    let put = kcl.run(&["put", &stream, "--data", &"x".repeat(900), "--count", "400"]);
    assert_eq!(put.code, 0, "{put:?}");
    let settled = "await page.waitForFunction(() => {
        const states = [...document.querySelectorAll('#shards tbody .badge')].map((badge) => badge.textContent);
        return states.length === 4 && states.every((state) => state === 'OK');
    }, null, { timeout: 90000 })";
    browser.run(settled, &Value::Null).await;
    let shot = screenshots(&testbed);
    let lease = "shardId-000000000005";
    let pause = json!({
        "lease": lease, "order": "pause", "reason": "the database is down", "state": "PAUSED", "shot": shot.join("dashboard-shard.png"),
    });
    let paused = browser.run(ORDER_BY_KEYS, &pause).await;
    assert_eq!(paused["answer"], "Pause: obeyed, revision 1.", "{paused:#}");
    assert_eq!(
        (&paused["back"], &paused["isClosed"]),
        (&lease.into(), &true.into()),
        "the focus comes back"
    );
    let status = kcl.json(&["status", APPLICATION, "5$", "--table", &table], 0);
    let shard = &status["shards"][0];
    assert_eq!(
        (
            &shard["state"],
            &shard["answered_revision"],
            &shard["order_history"][0]["author"]
        ),
        (&"PAUSED".into(), &1.into(), &"ana".into()),
        "{shard:#}"
    );
    shoot(&mut browser, shot.clone(), "light", true).await;
    open(&mut dark, &serving.url).await;
    dark.run(
        "await page.locator('#colours input[value=owner]').check()",
        &Value::Null,
    )
    .await;
    shoot(&mut dark, shot, "dark", true).await;

    let resume =
        json!({ "lease": lease, "order": "resume", "reason": "it is back", "state": "OK", "shot": null });
    let resumed = browser.run(ORDER_BY_KEYS, &resume).await;
    assert_eq!(resumed["answer"], "Resume: obeyed, revision 2.", "{resumed:#}");
    let after = browser.run(loaded, &Value::Null).await;
    assert_eq!(before, after, "the page was never loaded again");
    assert_no_complaint(&mut browser).await;
    assert_no_complaint(&mut dark).await;
    drop(dark);

    #[cfg(unix)]
    assert_eq!(
        serving.interrupt().await,
        Some(0),
        "it ends although a browser watches"
    );
    let lost = "await page.waitForFunction(() => document.querySelector('#problem').textContent.includes('cannot be reached'), null, { timeout: 30000 })";
    browser.run(lost, &Value::Null).await;
    for worker in workers {
        worker.shutdown();
        assert!(worker.join().await.unwrap().is_clean());
    }
    testbed.delete_stream(&stream).await;
}

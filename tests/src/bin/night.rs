//! Records the night of `docs/operations.md`: a fleet of processes on the emulators, a poison record, and the commands of an operator with
//! their real output. `cargo run -p kcl-tests --bin night`

#![allow(clippy::expect_used, reason = "a recording that fails is none")]

use std::fs;
use std::time::Duration;

use kcl_tests::command::{Kcl, Ran};
use kcl_tests::fleet::drive::{Fleet, Programs, ReadMode, Shape};
use kcl_tests::fleet::processes::Process;
use kcl_tests::testbed::Testbed;
use kcl_tests::wait::eventually;
use serde_json::Value;

const APPLICATION: &str = "truck-tracker";
const LETTERS: &str = "letters";
const SHAPE: Shape = Shape {
    shards: 4,
    rate: 100,
    failover: Duration::from_secs(10),
    read: ReadMode::Polling,
};
/// The lag of the shard by which the operator wakes, in milliseconds.
const ALARM: u64 = 70_000;
/// Longer than it takes for the lag to grow so far.
const NIGHT: Duration = Duration::from_secs(180);

/// An operator before a terminal.
struct Operator {
    kcl: Kcl,
    /// The names of this run, and what a reader is shown instead.
    shown: Vec<(String, String)>,
}

impl Operator {
    fn run(&self, line: &str) -> Ran {
        let words: Vec<String> = line
            .split('\'')
            .enumerate()
            .fold(Vec::new(), |mut words, (at, part)| {
                match at % 2 {
                    0 => words.extend(part.split_whitespace().map(|word| self.real(word))),
                    _ => words.push(part.to_owned()),
                }
                words
            });
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        self.kcl.run(&words)
    }

    /// Runs a command, and prints it as a terminal shows it.
    fn enter(&self, line: &str) {
        let ran = self.run(line);
        println!("$ kcl {line}");
        print!("{}", self.shown(&(ran.complaint + &ran.output)));
    }

    /// Waits until the answer in JSON is as expected.
    async fn wait(&self, line: &str, expected: impl Fn(&Value) -> bool) {
        eventually(NIGHT, async || {
            let ran = self.run(&format!("{line} -o json"));
            let answer: Option<Value> = serde_json::from_str(&ran.output).ok();
            match answer.is_some_and(|answer| expected(&answer)) {
                true => Ok(()),
                false => Err(format!("{line}: {ran:?}")),
            }
        })
        .await;
    }

    fn real(&self, word: &str) -> String {
        let known = self.shown.iter().find(|(_, shown)| shown == word);
        known.map_or_else(|| word.to_owned(), |(real, _)| real.clone())
    }

    fn shown(&self, text: &str) -> String {
        let shown = self.shown.iter();
        shown.fold(text.to_owned(), |text, (real, shown)| text.replace(real, shown))
    }
}

#[tokio::main]
async fn main() {
    let testbed = match Testbed::get().await {
        Ok(testbed) => testbed,
        Err(left_out) => return left_out.report("the night"),
    };
    let programs = Programs::build();
    let mut fleet = Fleet::start(&testbed, &programs, SHAPE).await;
    fleet.application = APPLICATION.to_owned();
    let folder = fleet.scene().folder().to_owned();
    let file = |name: &str| folder.join(name).to_string_lossy().into_owned();
    let (letters, broken) = (file(LETTERS), file("broken"));
    fs::write(&broken, "").expect("the folder is writable");
    for _ in 0..2 {
        fleet.start_worker_with(&["--dead-letters", &letters, "--hold", "--broken", &broken]);
    }
    fleet.balanced(2, 2).await;
    fleet.every_open_shard_is_consumed("two workers share").await;
    let operator = Operator {
        kcl: Kcl::build(&folder, testbed.environment(), false).with("USER", "ana"),
        shown: vec![
            (fleet.stream.clone(), "truck-positions".to_owned()),
            (letters, LETTERS.to_owned()),
        ],
    };
    let shard = poison(&operator, &broken).await;
    let rings = |status: &Value| status["summary"]["max_lag_ms"].as_u64() >= Some(ALARM);
    operator.wait("status truck-tracker", rings).await;

    operator.enter("status truck-tracker");
    operator.enter("lag truck-tracker --max-lag 60");
    operator.enter(&format!("why truck-tracker {shard}"));
    operator.enter(&format!(
        "pause truck-tracker {shard} --reason 'a poison record: looking at it'"
    ));
    operator.enter("held truck-tracker");
    operator.enter(&format!(
        "skip truck-tracker {shard} --reason 'no position in it, truck team is told'"
    ));
    operator.enter(&format!("resume truck-tracker {shard}"));
    let is_set_aside = |held: &Value| held["records"][0]["kind"] == "dead_letter";
    operator
        .wait("held truck-tracker --dead-letters letters", is_set_aside)
        .await;
    operator.enter("held truck-tracker --dead-letters letters");
    let is_well = |status: &Value| status["summary"]["state"] == "OK";
    operator.wait("status truck-tracker", is_well).await;
    operator.enter("status truck-tracker");

    // The repair is deployed.
    fs::write(&broken, "").expect("the folder is writable");
    operator.enter("redrive truck-tracker --dead-letters letters");
    operator.enter("redrive truck-tracker --dead-letters letters --execute");
    operator.enter("redrive truck-tracker --dead-letters letters");
    operator.enter("lag truck-tracker --max-lag 60");

    // What else docs/kcl.md shows of this fleet.
    println!();
    operator.enter(&format!("reset truck-tracker {shard} --by-duration 2m"));
    operator.enter("replay truck-positions --from 90s --to 89s --payload");

    let alive = fleet.live().map(Process::name).count();
    assert_eq!(alive, 2, "no worker was started again");
    fleet.stop_producer().await;
    fleet.everything_is_seen().await;
    fleet.drain().await;
    fleet.remove().await;
}

/// A record comes that the code of this night cannot read. Returns its shard, once that is held.
async fn poison(operator: &Operator, broken: &str) -> String {
    fs::write(broken, "truck-500\n").expect("the folder is writable");
    let put = operator.run("put truck-positions --key truck-500 --data 'somewhere in the north' -o json");
    let put: Value = serde_json::from_str(&put.output).expect("the record is put");
    let is_held = |status: &Value| status["summary"]["state"] == "HELD";
    operator.wait("status truck-tracker", is_held).await;
    put["shard"].as_str().expect("it has a shard").to_owned()
}

//! Every message arrives, and is stored once, whatever becomes of the broker.
//!
//! A device sends its results one by one while the broker is killed (SIGKILL) again and again, and every
//! second time loses what it had saved. Faults that must be survived: a broker that is gone with all it
//! had accepted, and, where the broker is in its process, a fleet that is gone with it. The fleet's
//! database survives; a calm phase at the end must converge.
//!
//! `SELVEDGE_FULL=1` sends 10,000 messages through ten kills.

use std::{collections::BTreeSet, env};

use selvedge_tests::{
    api::number,
    shuttle,
    stage::{Stage, replay},
};

/// How much is sent through how many kills.
struct Load {
    messages: u64,
    kills: u64,
}

#[test]
fn every_message_is_stored_once_though_the_fleet_is_killed_with_its_broker() {
    every_message_is_stored_once(Stage::embedded());
}

#[test]
fn every_message_is_stored_once_though_mosquitto_is_killed_and_forgets() {
    if let Some(stage) = Stage::mosquitto() {
        every_message_is_stored_once(stage);
    }
}

fn every_message_is_stored_once(mut stage: Stage) {
    const TABLES: &str = "[profile]\nwindow_s = 3600\n[spool]\nbatch_records_max = 1\n\
                          resend_after_s = 1\nsync_interval_ms = 50\n";
    let Load { messages, kills } = load();
    let bundle = stage.publish(&shuttle::bundle("v1"));
    let rows = stage.folder().join("rows.csv");
    shuttle::write_rows(&rows, messages as usize);
    stage.add_agent("line-1", &format!("{}{TABLES}", replay(&rows, 200, false)));
    stage.assign("line-1", bundle);

    for kill in 1..=kills {
        stage.wait_for_results("line-1", 1, kill * messages / (kills + 1));
        stage.kill_broker(kill % 2 == 0);
        stage.start_broker();
    }
    let results = stage.wait_for_stream("line-1", 1, "results", |results| {
        results["through"].as_u64() == Some(messages)
    });
    let count = |key: &str| number(&results[key]);
    assert_eq!((count("records"), count("missing")), (messages, 0));
    assert_eq!((count("dropped"), count("conflicting")), (0, 0));

    let rows = stage.api().rows("line-1", "results");
    let sequences: BTreeSet<u64> = rows.iter().map(|row| number(&row["sequence"])).collect();
    let samples: BTreeSet<u64> = rows.iter().map(|row| number(&row["sample"])).collect();
    assert_eq!(rows.len() as u64, messages, "no number is stored twice");
    assert!(sequences.into_iter().eq(1..=messages), "every number is stored");
    assert!(samples.into_iter().eq(0..messages), "every sample is stored");
    stage.wait_for_device("line-1", "an empty spool", |seen| {
        seen["health"]["spool_bytes"].as_u64() == Some(0)
    });
}

fn load() -> Load {
    match env::var("SELVEDGE_FULL").as_deref() {
        Ok("1") => Load { messages: 10_000, kills: 10 },
        _ => Load { messages: 1_500, kills: 3 },
    }
}

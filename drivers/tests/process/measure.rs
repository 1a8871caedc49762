//! Prints the numbers for docs/benchmarks.md: `cargo test -p drivers --test process -- --ignored --nocapture measure`.

use std::time::{Duration, Instant};

use crate::test_preview::TestPreview;

fn read_proc_value(pid: i32, file: &str, key: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/{file}")).expect("readable");
    let lines = text.lines().filter_map(|line| line.strip_prefix(key)).filter_map(|value| value.strip_prefix(':'));
    lines.filter_map(|value| value.trim().trim_end_matches(" kB").parse::<u64>().ok()).sum()
}

fn context_switches(pid: i32) -> u64 {
    read_proc_value(pid, "status", "voluntary_ctxt_switches")
        + read_proc_value(pid, "status", "nonvoluntary_ctxt_switches")
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

#[tokio::test]
#[ignore = "takes ten seconds; asserts only that the keeper stays idle"]
async fn measure() {
    let mut preview = TestPreview::new();
    for number in 0..10 {
        preview.add_shell_unit(&format!("u{number}"), "exec sleep 300");
    }
    let names: Vec<String> = preview.units.keys().cloned().collect();
    let started_at = Instant::now();
    preview.create_and_start(&names[0]).await;
    println!("first unit, keeper included: {:?}", started_at.elapsed());
    let (mut create_times, mut start_times) = (Vec::new(), Vec::new());
    for name in &names[1..] {
        let started_at = Instant::now();
        preview.create(name).await.expect("creates");
        create_times.push(started_at.elapsed());
        let started_at = Instant::now();
        preview.start(name).await.expect("starts");
        start_times.push(started_at.elapsed());
    }
    println!("create: {:?}, start: {:?} (median of 9)", median(create_times), median(start_times));
    let mut observe_times = Vec::new();
    for _ in 0..200 {
        let started_at = Instant::now();
        assert_eq!(preview.observe().await.units.len(), 10);
        observe_times.push(started_at.elapsed());
    }
    println!("observe ten units: {:?} (median of 200)", median(observe_times));
    let keeper = preview.keeper_pid().expect("a keeper");
    let private = read_proc_value(keeper, "smaps_rollup", "Private_Clean")
        + read_proc_value(keeper, "smaps_rollup", "Private_Dirty");
    let resident = read_proc_value(keeper, "status", "VmRSS");
    let dirty = read_proc_value(keeper, "smaps_rollup", "Private_Dirty");
    println!("keeper of ten: {resident} kB resident, {private} kB private, {dirty} kB of it dirty");
    tokio::time::sleep(Duration::from_secs(4)).await;
    let switches_before = context_switches(keeper);
    tokio::time::sleep(Duration::from_secs(5)).await;
    let wake_ups = context_switches(keeper) - switches_before;
    println!("wake-ups of the keeper in five idle seconds: {wake_ups}");
    assert_eq!(wake_ups, 0);
    let started_at = Instant::now();
    futures_util::future::join_all(names.iter().map(|name| preview.stop(name))).await;
    println!("stop of ten at once: {:?}", started_at.elapsed());
    preview.remove_all().await;
}

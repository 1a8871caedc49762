//! Numbers for docs/benchmarks.md, printed: `cargo test -p drivers --test process -- --ignored --nocapture measure`.

use std::time::{Duration, Instant};

use crate::test_preview::TestPreview;

fn read_proc_value(pid: i32, file: &str, key: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/{file}")).expect("readable");
    let lines = text.lines().filter_map(|line| line.strip_prefix(key)).filter_map(|rest| rest.strip_prefix(':'));
    lines.filter_map(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok()).sum()
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
#[ignore = "measures for ten seconds and asserts nothing but idleness"]
async fn measure() {
    let mut bench = TestPreview::new();
    for number in 0..10 {
        bench.add_shell_unit(&format!("u{number}"), "exec sleep 300");
    }
    let names: Vec<String> = bench.units.keys().cloned().collect();
    let before = Instant::now();
    bench.create_and_start(&names[0]).await;
    println!("first unit, keeper included: {:?}", before.elapsed());
    let (mut creating, mut starting) = (Vec::new(), Vec::new());
    for name in &names[1..] {
        let before = Instant::now();
        bench.create(name).await.expect("creates");
        creating.push(before.elapsed());
        let before = Instant::now();
        bench.start(name).await.expect("starts");
        starting.push(before.elapsed());
    }
    println!("create: {:?}, start: {:?} (median of 9)", median(creating), median(starting));
    let mut observing = Vec::new();
    for _ in 0..200 {
        let before = Instant::now();
        assert_eq!(bench.observe().await.units.len(), 10);
        observing.push(before.elapsed());
    }
    println!("observe ten units: {:?} (median of 200)", median(observing));
    let keeper = bench.keeper_pid().expect("a keeper");
    let private = read_proc_value(keeper, "smaps_rollup", "Private_Clean")
        + read_proc_value(keeper, "smaps_rollup", "Private_Dirty");
    let resident = read_proc_value(keeper, "status", "VmRSS");
    let dirty = read_proc_value(keeper, "smaps_rollup", "Private_Dirty");
    println!("keeper of ten: {resident} kB resident, {private} kB private, {dirty} kB of it dirty");
    tokio::time::sleep(Duration::from_secs(4)).await;
    let first = context_switches(keeper);
    tokio::time::sleep(Duration::from_secs(5)).await;
    let idle = context_switches(keeper) - first;
    println!("wake-ups of the keeper in five idle seconds: {idle}");
    assert_eq!(idle, 0);
    let before = Instant::now();
    futures_util::future::join_all(names.iter().map(|name| bench.stop(name))).await;
    println!("stop of ten at once: {:?}", before.elapsed());
    bench.remove_all().await;
}

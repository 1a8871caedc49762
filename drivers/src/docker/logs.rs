//! Output of one container as lines with times. Keeps only the lines of the engine's last frame in memory.

use std::collections::VecDeque;

use bollard::Docker as Engine;
use bollard::container::LogOutput;
use bollard::query_parameters::LogsOptionsBuilder;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};

use super::observe::parse_millis;
use super::problems::to_problem;
use crate::driver::{LogLine, LogRequest};
use crate::problem::Problem;

const LINE_BYTES_MAX: usize = 16 * 1024;

pub(super) fn stream_logs(
    engine: Engine,
    handle: String,
    request: LogRequest,
) -> BoxStream<'static, Result<LogLine, Problem>> {
    let mut options = LogsOptionsBuilder::default().stdout(true).stderr(true).timestamps(true).follow(request.follow);
    options = options.tail(&request.tail.map_or_else(|| "all".to_owned(), |lines| lines.to_string()));
    if let Some(since) = request.since {
        // The engine's option takes whole seconds; the filter below applies the milliseconds.
        options = options.since(i32::try_from(since / 1000).unwrap_or(i32::MAX));
    }
    let since = request.since.unwrap_or(i64::MIN);
    let source = engine.logs(&handle, Some(options.build())).boxed();
    stream::unfold((source, VecDeque::new()), move |(mut source, mut lines)| async move {
        loop {
            if let Some(line) = lines.pop_front() {
                return Some((line, (source, lines)));
            }
            match source.next().await? {
                Ok(output) => {
                    lines.extend(to_log_lines(output).into_iter().filter(|line| line.timestamp >= since).map(Ok));
                }
                Err(error) => lines.push_back(Err(to_problem("cannot read logs", &error))),
            }
        }
    })
    .boxed()
}

/// Converts a frame: the engine sends one line per frame, with its time in front.
fn to_log_lines(output: LogOutput) -> Vec<LogLine> {
    let is_stderr = matches!(output, LogOutput::StdErr { .. });
    let bytes = output.into_bytes();
    let bytes = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
    let bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
    let time_length = bytes.iter().position(|byte| *byte == b' ').unwrap_or(bytes.len());
    let time_text = std::str::from_utf8(&bytes[..time_length]).ok();
    let (timestamp, text) = match parse_millis(time_text) {
        Some(timestamp) => (timestamp, bytes.get(time_length + 1..).unwrap_or_default()),
        // Keep a line without a valid time rather than lose it.
        None => (0, bytes),
    };
    if text.is_empty() {
        return vec![LogLine { timestamp, is_stderr, text: String::new() }];
    }
    let to_line = |chunk: &[u8]| LogLine { timestamp, is_stderr, text: String::from_utf8_lossy(chunk).into_owned() };
    text.chunks(LINE_BYTES_MAX).map(to_line).collect()
}

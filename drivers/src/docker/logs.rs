//! Output of one container as lines with times. Keeps at most one unfinished line per stream.

use std::collections::VecDeque;

use bollard::Docker as Engine;
use bollard::container::LogOutput;
use bollard::query_parameters::LogsOptionsBuilder;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};

use super::observe::parse_millis;
use super::problems::to_problem;
use crate::driver::{LogLine, LogRequest, Problem};

const LINE_BYTES_MAX: usize = 16 * 1024;

pub(super) fn stream_logs(
    engine: Engine,
    handle: String,
    request: LogRequest,
) -> BoxStream<'static, Result<LogLine, Problem>> {
    let mut options = LogsOptionsBuilder::default().stdout(true).stderr(true).timestamps(true).follow(request.follow);
    options = options.tail(&request.tail.map_or_else(|| "all".to_owned(), |lines| lines.to_string()));
    if let Some(since) = request.since {
        options = options.since(i32::try_from(since / 1000).unwrap_or(i32::MAX));
    }
    let since = request.since.unwrap_or(i64::MIN);
    let source = engine.logs(&handle, Some(options.build())).boxed();
    stream::unfold((source, VecDeque::new()), move |(mut source, mut ready)| async move {
        loop {
            if let Some(line) = ready.pop_front() {
                return Some((line, (source, ready)));
            }
            match source.next().await? {
                Ok(output) => {
                    ready.extend(to_log_lines(output).into_iter().filter(|line| line.timestamp >= since).map(Ok));
                }
                Err(error) => ready.push_back(Err(to_problem("cannot read logs", &error))),
            }
        }
    })
    .boxed()
}

/// The engine's frames are single lines with their time in front.
fn to_log_lines(output: LogOutput) -> Vec<LogLine> {
    let stderr = matches!(output, LogOutput::StdErr { .. });
    let bytes = output.into_bytes();
    let bytes = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
    let bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
    let split = bytes.iter().position(|byte| *byte == b' ').unwrap_or(bytes.len());
    let stamp = std::str::from_utf8(&bytes[..split]).ok();
    let (at, text) = match parse_millis(stamp) {
        Some(at) => (at, bytes.get(split + 1..).unwrap_or_default()),
        None => (0, bytes),
    };
    if text.is_empty() {
        return vec![LogLine { timestamp: at, is_stderr: stderr, text: String::new() }];
    }
    let piece =
        |piece: &[u8]| LogLine { timestamp: at, is_stderr: stderr, text: String::from_utf8_lossy(piece).into_owned() };
    text.chunks(LINE_BYTES_MAX).map(piece).collect()
}

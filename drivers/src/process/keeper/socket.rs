//! The keeper's socket: sends the greeting, receives one bounded request with its descriptors, sends the reply. Makes
//! no decisions; it passes every request to the keeper through its mailbox.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use serde::Serialize;
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::UnixStream;
use tokio::sync::{broadcast, mpsc, oneshot, watch};

use super::super::wire::{Event, Greeting, LINE_MAX, PROTOCOL_VERSION, Reply, Request};
use super::output::LogProgress;
use super::{ExecStart, KeeperCommand};

/// A client that sends no request within this time is disconnected.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(10);

pub(crate) type Mailbox = mpsc::Sender<KeeperCommand>;

pub(crate) async fn serve_client(mut stream: UnixStream, nonce: String, mailbox: Mailbox) {
    if !is_allowed_peer(&stream) {
        return;
    }
    // Greet first, so that a driver of another version detects the mismatch before it sends a request.
    let greeting = Greeting { pdev_keeper: PROTOCOL_VERSION, nonce };
    if send_line(&mut stream, &greeting).await.is_err() {
        return;
    }
    let Ok(Ok((line, descriptors))) = tokio::time::timeout(CLIENT_TIMEOUT, read_request(&stream)).await else { return };
    let request = match serde_json::from_slice(&line) {
        Ok(request) => request,
        Err(error) => {
            let message = format!("this keeper does not understand the request: {error}");
            return drop(send_line(&mut stream, &Reply::Failed { message }).await);
        }
    };
    // An error means that the client disconnected and needs no reply.
    drop(handle_request(&mut stream, request, descriptors, &mailbox).await);
}

/// Only the same user and root may send requests. The folder's mode already enforces this; the check covers a folder
/// whose mode was changed.
fn is_allowed_peer(stream: &UnixStream) -> bool {
    let own_uid = rustix::process::geteuid().as_raw();
    stream.peer_cred().is_ok_and(|peer| peer.uid() == own_uid || peer.uid() == 0)
}

async fn handle_request(
    stream: &mut UnixStream,
    request: Request,
    descriptors: Vec<OwnedFd>,
    mailbox: &Mailbox,
) -> io::Result<()> {
    match request {
        Request::Start { record, spawn, shell_environment } => {
            let answer =
                send_command(mailbox, |reply| KeeperCommand::Start { record, spawn, shell_environment, reply }).await?;
            send_line(stream, &answer).await
        }
        Request::ShellEnvironment => {
            let environment = send_command(mailbox, |reply| KeeperCommand::ReadShellEnvironment { reply }).await?;
            send_line(stream, &Reply::ShellEnvironment { environment }).await
        }
        Request::Stop { unit, stop } => {
            let answer =
                send_command(mailbox, |reply| KeeperCommand::Stop { unit, stop, remove: false, reply }).await?;
            send_line(stream, &answer).await
        }
        Request::Remove { unit } => {
            let answer =
                send_command(mailbox, |reply| KeeperCommand::Stop { unit, stop: None, remove: true, reply }).await?;
            send_line(stream, &answer).await
        }
        Request::Follow => {
            let events = send_command(mailbox, |reply| KeeperCommand::Follow { reply }).await?;
            send_line(stream, &Reply::Following).await?;
            forward_events(stream, events).await
        }
        Request::Output { unit } => {
            match send_command(mailbox, |reply| KeeperCommand::WatchOutput { unit, reply }).await? {
                Some(progress) => {
                    send_line(stream, &Reply::Following).await?;
                    forward_output_progress(stream, progress).await
                }
                None => send_line(stream, &Reply::Done).await,
            }
        }
        Request::Exec { spawn, exclusive } => run_exec(stream, spawn, exclusive, descriptors, mailbox).await,
    }
}

async fn send_command<T>(
    mailbox: &Mailbox,
    command: impl FnOnce(oneshot::Sender<T>) -> KeeperCommand,
) -> io::Result<T> {
    let (reply, answer) = oneshot::channel();
    let gone = || io::Error::from(io::ErrorKind::BrokenPipe);
    mailbox.send(command(reply)).await.map_err(|_| gone())?;
    answer.await.map_err(|_| gone())
}

async fn forward_events(stream: &mut UnixStream, mut events: broadcast::Receiver<Event>) -> io::Result<()> {
    loop {
        tokio::select! {
            event = events.recv() => match event {
                Ok(event) => send_line(stream, &event).await?,
                Err(broadcast::error::RecvError::Lagged(_)) => send_line(stream, &Event::Missed).await?,
                Err(broadcast::error::RecvError::Closed) => return Ok(()),
            },
            () = wait_for_hangup(stream) => return Ok(()),
        }
    }
}

async fn forward_output_progress(
    stream: &mut UnixStream,
    mut progress: watch::Receiver<LogProgress>,
) -> io::Result<()> {
    loop {
        if progress.borrow_and_update().has_ended {
            return send_line(stream, &Event::OutputEnded).await;
        }
        send_line(stream, &Event::Wrote).await?;
        tokio::select! {
            result = progress.changed() => if result.is_err() {
                return send_line(stream, &Event::OutputEnded).await;
            },
            () = wait_for_hangup(stream) => return Ok(()),
        }
    }
}

/// Runs until the command ends. If the client disconnects, the command is ended, too.
async fn run_exec(
    stream: &mut UnixStream,
    spawn: Box<super::super::wire::SpawnSpec>,
    exclusive: Option<String>,
    descriptors: Vec<OwnedFd>,
    mailbox: &Mailbox,
) -> io::Result<()> {
    // At most two replies: `Started` and `Exited`.
    let (reply, mut answers) = mpsc::channel(2);
    let gone = || io::Error::from(io::ErrorKind::BrokenPipe);
    // Dropping `cancel` makes the keeper stop the command. After the command's end, this has no effect.
    let (cancel, cancelled) = oneshot::channel();
    let start = ExecStart { spawn, exclusive, descriptors, cancelled, reply };
    mailbox.send(KeeperCommand::Exec(Box::new(start))).await.map_err(|_| gone())?;
    loop {
        tokio::select! {
            answer = answers.recv() => match answer {
                Some(answer) => send_line(stream, &answer).await?,
                None => return Ok(()),
            },
            () = wait_for_hangup(stream) => {
                drop(cancel);
                return Ok(());
            }
        }
    }
}

/// Waits until the client disconnects. A client sends only one line; anything after it is ignored.
async fn wait_for_hangup(stream: &UnixStream) {
    while stream.readable().await.is_ok() {
        match stream.try_read(&mut [0; 64]) {
            Ok(0) => return,
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return,
            _ => {}
        }
    }
}

pub(crate) async fn send_line(stream: &mut UnixStream, value: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    match tokio::time::timeout(CLIENT_TIMEOUT, stream.write_all(&line)).await {
        Ok(written) => written,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// Reads up to the line's end with `recvmsg`, because a plain read would lose the descriptors.
async fn read_request(stream: &UnixStream) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let (mut line, mut descriptors) = (Vec::new(), Vec::new());
    loop {
        let received =
            stream.async_io(Interest::READABLE, || receive_chunk(stream, &mut line, &mut descriptors)).await?;
        if line.last() == Some(&b'\n') {
            line.pop();
            return Ok((line, descriptors));
        }
        if received == 0 || line.len() > LINE_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
}

fn receive_chunk(stream: &UnixStream, line: &mut Vec<u8>, descriptors: &mut Vec<OwnedFd>) -> io::Result<usize> {
    let mut bytes = [0; 8192];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    #[cfg(target_os = "linux")]
    // Without close-on-exec, a program that starts at this moment would inherit the descriptors.
    let flags = RecvFlags::CMSG_CLOEXEC;
    #[cfg(not(target_os = "linux"))]
    let flags = RecvFlags::empty();
    let received = recvmsg(stream, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags)?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    line.extend_from_slice(&bytes[..received.bytes]);
    Ok(received.bytes)
}

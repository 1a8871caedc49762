//! All events of the agent, across broken connections: reconnects, and resumes after the last received event.

use std::time::Duration;

use protocol::Event;

use crate::call::Client;
use crate::error::ClientError;
use crate::socket_location::SocketLocation;
use crate::stream::EventStream;

/// Limit of consecutive reconnections without an event in between.
const RECONNECTS_MAX: u32 = 5;
const RECONNECT_DELAY: Duration = Duration::from_millis(50);

#[derive(Debug)]
pub struct Subscription {
    location: SocketLocation,
    stream: Option<EventStream>,
    last_id: Option<u64>,
    started_at: i64,
}

impl Subscription {
    /// Subscribes to the events after `last_id`, or to those from now on.
    ///
    /// # Errors
    /// When the agent cannot be reached.
    pub async fn open(location: &SocketLocation, last_id: Option<u64>) -> Result<Self, ClientError> {
        let client = Client::connect(location).await?;
        let started_at = client.info().started_at;
        let stream = Some(client.events(last_id).await?);
        Ok(Self { location: location.clone(), stream, last_id, started_at })
    }

    /// The next event; `None` if the agent has ended or restarted.
    ///
    /// # Errors
    /// When the agent cannot be reached any more, or sends invalid data.
    pub async fn next(&mut self) -> Result<Option<Event>, ClientError> {
        let mut tries = 0;
        loop {
            let broken = match &mut self.stream {
                None => None,
                Some(stream) => match stream.next().await {
                    Ok(Some(event)) => {
                        self.last_id = Some(event.id);
                        return Ok(Some(event));
                    }
                    Ok(None) => None,
                    Err(ClientError::ConnectionBroken(message)) => Some(ClientError::ConnectionBroken(message)),
                    Err(error) => return Err(error),
                },
            };
            self.stream = None;
            tries += 1;
            if tries > RECONNECTS_MAX {
                return Err(
                    broken.unwrap_or_else(|| ClientError::ConnectionBroken("it ended after every reconnection".into()))
                );
            }
            // No delay before the first reconnection.
            tokio::time::sleep(RECONNECT_DELAY * (tries - 1)).await;
            match self.reopen().await {
                Ok(true) => {}
                Ok(false) | Err(ClientError::NotRunning { .. }) => return Ok(None),
                // A transient error counts as one of the reconnections.
                Err(_) => {}
            }
        }
    }

    /// `Ok(false)` if another agent process answers: it may number its events differently.
    async fn reopen(&mut self) -> Result<bool, ClientError> {
        let client = Client::connect(&self.location).await?;
        if client.info().started_at != self.started_at {
            return Ok(false);
        }
        self.stream = Some(client.events(self.last_id).await?);
        Ok(true)
    }
}

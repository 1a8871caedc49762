//! Events of the whole agent that survive a broken connection: reconnect, resume after the last one seen.

use std::time::Duration;

use protocol::Event;

use crate::call::Client;
use crate::error::ClientError;
use crate::socket_location::SocketLocation;
use crate::stream::EventStream;

/// Reconnections in a row without any event between them.
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
    /// Everything after `last_id`, or from now on.
    ///
    /// # Errors
    /// When no agent can be reached.
    pub async fn open(place: &SocketLocation, last_id: Option<u64>) -> Result<Self, ClientError> {
        let client = Client::connect(place).await?;
        let started_at = client.info().started_at;
        let stream = Some(client.events(last_id).await?);
        Ok(Self { location: place.clone(), stream, last_id, started_at })
    }

    /// The next event; `None` when the agent that was subscribed to is gone, for its numbers mean nothing to another.
    ///
    /// # Errors
    /// When the agent cannot be reached any more, or says something unreadable.
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
                    Err(ClientError::ConnectionBroken(words)) => Some(ClientError::ConnectionBroken(words)),
                    Err(error) => return Err(error),
                },
            };
            self.stream = None;
            tries += 1;
            if tries > RECONNECTS_MAX {
                return Err(broken.unwrap_or_else(|| ClientError::ConnectionBroken("it ended again and again".into())));
            }
            tokio::time::sleep(RECONNECT_DELAY * (tries - 1)).await;
            match self.reopen().await {
                Ok(true) => {}
                Ok(false) | Err(ClientError::NotRunning { .. }) => return Ok(None),
                Err(_) => {}
            }
        }
    }

    async fn reopen(&mut self) -> Result<bool, ClientError> {
        let client = Client::connect(&self.location).await?;
        if client.info().started_at != self.started_at {
            return Ok(false);
        }
        self.stream = Some(client.events(self.last_id).await?);
        Ok(true)
    }
}

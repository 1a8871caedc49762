//! Events of the whole agent that survive a broken connection: reconnect, resume after the last one seen.

use std::time::Duration;

use protocol::Event;

use crate::call::Client;
use crate::error::ClientError;
use crate::place::Place;
use crate::stream::EventStream;

/// Reconnections in a row without any event between them.
const TRIES_MAX: u32 = 5;
const PAUSE: Duration = Duration::from_millis(50);

#[derive(Debug)]
pub struct Subscription {
    place: Place,
    stream: Option<EventStream>,
    last_id: Option<u64>,
    started_at: i64,
}

impl Subscription {
    /// Everything after `last_id`, or from now on.
    ///
    /// # Errors
    /// When no agent can be reached.
    pub async fn open(place: &Place, last_id: Option<u64>) -> Result<Self, ClientError> {
        let client = Client::connect(place).await?;
        let started_at = client.info().started_at;
        let stream = Some(client.events(last_id).await?);
        Ok(Self { place: place.clone(), stream, last_id, started_at })
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
                    Err(ClientError::Broken(words)) => Some(ClientError::Broken(words)),
                    Err(error) => return Err(error),
                },
            };
            self.stream = None;
            tries += 1;
            if tries > TRIES_MAX {
                return Err(broken.unwrap_or_else(|| ClientError::Broken("it ended again and again".into())));
            }
            tokio::time::sleep(PAUSE * (tries - 1)).await;
            match self.reopen().await {
                Ok(true) => {}
                Ok(false) | Err(ClientError::NotRunning { .. }) => return Ok(None),
                Err(_) => {}
            }
        }
    }

    async fn reopen(&mut self) -> Result<bool, ClientError> {
        let client = Client::connect(&self.place).await?;
        if client.info().started_at != self.started_at {
            return Ok(false);
        }
        self.stream = Some(client.events(self.last_id).await?);
        Ok(true)
    }
}

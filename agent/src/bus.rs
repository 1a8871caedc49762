//! The event bus: numbered past-tense events for subscribers. Publishing never waits.
//!
//! The agent's own work does not depend on these events. A slow subscriber misses events and delays nothing.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use host::clock::now_milliseconds;
use protocol::status::PreviewRef;
use protocol::{Event, EventKind};
use tokio::sync::broadcast;

/// How many events a subscriber may lag behind, and how many are retained for `Last-Event-ID`.
const EVENTS_RETAINED: usize = 4096;

#[derive(Clone)]
pub struct Bus {
    inner: Arc<Inner>,
}

struct Inner {
    sender: broadcast::Sender<Arc<Event>>,
    recent: Mutex<Recent>,
}

struct Recent {
    events: VecDeque<Arc<Event>>,
    next_id: u64,
}

impl Bus {
    #[must_use]
    pub fn new(first_id: u64) -> Self {
        let recent = Recent { events: VecDeque::with_capacity(64), next_id: first_id.max(1) };
        Self { inner: Arc::new(Inner { sender: broadcast::Sender::new(EVENTS_RETAINED), recent: Mutex::new(recent) }) }
    }

    pub fn publish(&self, preview: PreviewRef, operation: Option<u64>, kind: EventKind) -> Arc<Event> {
        // Numbering and sending share one lock, so that subscribers receive ids in increasing order.
        let mut recent = self.inner.recent.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let event = Arc::new(Event { id: recent.next_id, at: now_milliseconds(), preview, operation, kind });
        recent.next_id += 1;
        if recent.events.len() == EVENTS_RETAINED {
            recent.events.pop_front();
        }
        recent.events.push_back(Arc::clone(&event));
        // An error only means that there is no subscriber.
        drop(self.inner.sender.send(Arc::clone(&event)));
        event
    }

    /// Returns the retained events after `last` and a receiver for all later ones, without gaps or duplicates.
    #[must_use]
    pub fn subscribe(&self, last: Option<u64>) -> (Vec<Arc<Event>>, broadcast::Receiver<Arc<Event>>) {
        let recent = self.inner.recent.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        // The lock is held until the receiver exists; otherwise an event published in between would be lost.
        let missed = match last {
            Some(last) => recent.events.iter().filter(|event| event.id > last).cloned().collect(),
            None => Vec::new(),
        };
        (missed, self.inner.sender.subscribe())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resuming_returns_each_missed_event_once() {
        let bus = Bus::new(1);
        for n in 0..5 {
            bus.publish(PreviewRef::default(), None, EventKind::Noted { text: n.to_string() });
        }
        let (missed, mut live) = bus.subscribe(Some(3));
        assert_eq!(missed.iter().map(|event| event.id).collect::<Vec<_>>(), [4, 5]);
        bus.publish(PreviewRef::default(), None, EventKind::AgentStopping);
        assert_eq!(live.try_recv().unwrap().id, 6);
        assert!(live.try_recv().is_err());
    }

    #[test]
    fn retained_events_are_bounded() {
        let bus = Bus::new(1);
        for _ in 0..EVENTS_RETAINED + 10 {
            bus.publish(PreviewRef::default(), None, EventKind::AgentStopping);
        }
        assert_eq!(bus.subscribe(Some(0)).0.len(), EVENTS_RETAINED);
    }
}

//! Past-tense events for spectators: numbered, kept for a while, never waited for.
//!
//! Nothing in the agent acts on what it hears here; a slow listener loses lines, never the work.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use protocol::status::PreviewRef;
use protocol::{Event, EventKind};
use tokio::sync::broadcast;

/// How many events a listener may be late, and how many are kept for `Last-Event-ID`.
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
        // One lock around numbering and sending, so that ids grow in the order in which listeners see them.
        let mut recent = self.inner.recent.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let event = Arc::new(Event { id: recent.next_id, at: now_ms(), preview, operation, kind });
        recent.next_id += 1;
        if recent.events.len() == EVENTS_RETAINED {
            recent.events.pop_front();
        }
        recent.events.push_back(Arc::clone(&event));
        // An error only says that nobody listens.
        drop(self.inner.sender.send(Arc::clone(&event)));
        event
    }

    /// The kept events after `last`, and everything from now on, without a gap or a double.
    #[must_use]
    pub fn subscribe(&self, last: Option<u64>) -> (Vec<Arc<Event>>, broadcast::Receiver<Arc<Event>>) {
        let recent = self.inner.recent.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let missed = match last {
            Some(last) => recent.events.iter().filter(|event| event.id > last).cloned().collect(),
            None => Vec::new(),
        };
        (missed, self.inner.sender.subscribe())
    }
}

/// Unix milliseconds.
#[must_use]
pub fn now_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
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

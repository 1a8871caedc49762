//! Background tasks with an owner: they end at the latest when their owner is dropped.
//!
//! `cli/tests/workspace.rs` forbids `tokio::spawn` without an owner.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::task::{JoinHandle, JoinSet};

/// One task, aborted when this value is dropped.
#[derive(Debug)]
pub struct OwnedTask(JoinHandle<()>);

impl OwnedTask {
    /// Must be called inside a tokio runtime.
    #[must_use]
    pub fn spawn(task: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(tokio::spawn(task))
    }

    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.0.is_finished()
    }
}

impl Drop for OwnedTask {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Any number of tasks, aborted when this value is dropped. Tasks that have ended are forgotten.
#[derive(Default)]
pub struct TaskGroup {
    running: Mutex<JoinSet<()>>,
}

impl TaskGroup {
    /// Must be called inside a tokio runtime. A task that has to end before the group does limits its own time.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut running = self.lock();
        while running.try_join_next().is_some() {}
        running.spawn(task);
    }

    /// Aborts all tasks and waits until they have ended.
    pub async fn shutdown(&self) {
        let mut running = std::mem::take(&mut *self.lock());
        running.shutdown().await;
    }

    fn lock(&self) -> MutexGuard<'_, JoinSet<()>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for TaskGroup {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("TaskGroup").field("running", &self.lock().len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    /// Never ends on its own. The receiver reports its end.
    fn endless() -> (impl Future<Output = ()> + Send + 'static, oneshot::Receiver<()>) {
        let (sender, ended) = oneshot::channel::<()>();
        let task = async move {
            let _sender = sender;
            std::future::pending::<()>().await;
        };
        (task, ended)
    }

    #[tokio::test]
    async fn tasks_end_when_their_owner_is_dropped() {
        let (task, ended) = endless();
        let owned = OwnedTask::spawn(task);
        assert!(!owned.is_finished());
        drop(owned);
        assert!(ended.await.is_err());
        let (task, ended) = endless();
        let group = TaskGroup::default();
        group.spawn(task);
        drop(group);
        assert!(ended.await.is_err());
    }

    #[tokio::test]
    async fn ended_tasks_are_forgotten_and_shutdown_waits_for_the_others() {
        let group = TaskGroup::default();
        let (sender, done) = oneshot::channel();
        group.spawn(async move { sender.send(()).unwrap() });
        done.await.unwrap();
        tokio::task::yield_now().await;
        let (task, mut ended) = endless();
        group.spawn(task);
        assert_eq!(group.lock().len(), 1);
        group.shutdown().await;
        assert!(matches!(ended.try_recv(), Err(oneshot::error::TryRecvError::Closed)));
    }
}

//! The single thread that analyses manifests, checks edits of them, and frees old analyses.
//!
//! The analysis of a long manifest takes tens of megabytes in small allocations. One thread that allocates and frees
//! them reuses the same heap; a thread pool would keep one heap per thread.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;

use tokio::sync::{Mutex, mpsc, oneshot};

use crate::check::{Analysis, AnalysisJob};

/// `analysis_lock` admits one job at a time, so the channel holds at most one job, the analyses to free, and the work
/// of a few requests.
const QUEUE_MAX: usize = 16;

enum Task {
    Analyse(Box<AnalysisJob>, oneshot::Sender<Arc<Analysis>>),
    Free(Arc<Analysis>),
    /// Other work that allocates trees, such as the check of an edit.
    Run(Box<dyn FnOnce() + Send>),
}

#[derive(Debug)]
pub struct AnalysisWorker {
    tasks: mpsc::Sender<Task>,
    /// Held for one analysis. It is fair: waiting callers get it in the order of their calls.
    pub analysis_lock: Mutex<()>,
}

impl AnalysisWorker {
    /// The thread ends when this value is dropped, because that closes the channel.
    #[must_use]
    pub fn start() -> Self {
        let (tasks, mut receiver) = mpsc::channel(QUEUE_MAX);
        let run = move || {
            while let Some(task) = receiver.blocking_recv() {
                match task {
                    Task::Analyse(job, reply) => {
                        // A panic fails only this analysis. Without this the thread would end, and all later ones fail.
                        if let Ok(analysis) = catch_unwind(AssertUnwindSafe(|| job.run())) {
                            drop(reply.send(Arc::new(analysis)));
                        }
                    }
                    Task::Free(analysis) => drop(analysis),
                    // A panic drops the sender of the result, which its receiver reports.
                    Task::Run(work) => drop(catch_unwind(AssertUnwindSafe(work))),
                }
            }
        };
        // If the system has no thread left, the receiver is dropped and each analysis is reported as failed.
        drop(thread::Builder::new().name("analysis".into()).spawn(run));
        Self { tasks, analysis_lock: Mutex::new(()) }
    }

    /// Returns `None` if the analysis failed.
    pub async fn analyse(&self, job: AnalysisJob) -> Option<Arc<Analysis>> {
        let (reply, analysis) = oneshot::channel();
        self.tasks.send(Task::Analyse(Box::new(job), reply)).await.ok()?;
        analysis.await.ok()
    }

    /// Runs this work on the thread. Returns `None` if it panicked.
    pub async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let (reply, result) = oneshot::channel();
        let work = move || drop(reply.send(work()));
        self.tasks.send(Task::Run(Box::new(work))).await.ok()?;
        result.await.ok()
    }

    /// Frees an analysis on the thread that allocated it. If another task still reads it, or the queue is full, it is
    /// freed elsewhere.
    pub fn free(&self, analysis: Arc<Analysis>) {
        drop(self.tasks.try_send(Task::Free(analysis)));
    }
}

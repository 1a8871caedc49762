//! The one thread that looks at manifests, and forgets what was seen.
//!
//! One, because a look at a long manifest is tens of megabytes in small pieces: made and freed by the same thread they
//! are used again, while a pool of threads keeps a heap each. Whoever wants the same look waits for it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;

use tokio::sync::{Mutex, mpsc, oneshot};

use crate::check::{Analysis, AnalysisJob};

/// Looks wait in `turn`, so what lies in the channel is at most one of them and what is to be forgotten.
const QUEUE_MAX: usize = 16;

enum Task {
    Analyse(Box<AnalysisJob>, oneshot::Sender<Arc<Analysis>>),
    Free(Arc<Analysis>),
}

#[derive(Debug)]
pub struct AnalysisWorker {
    tasks: mpsc::Sender<Task>,
    /// Held through a look, and fair: first come, first served.
    pub analysis_lock: Mutex<()>,
}

impl AnalysisWorker {
    /// The thread ends with the value.
    #[must_use]
    pub fn start() -> Self {
        let (work, mut waiting) = mpsc::channel(QUEUE_MAX);
        let look = move || {
            while let Some(next) = waiting.blocking_recv() {
                match next {
                    Task::Analyse(job, answer) => {
                        // A panic is one look without an answer, not the end of all of them.
                        if let Ok(analysis) = catch_unwind(AssertUnwindSafe(|| job.run())) {
                            drop(answer.send(Arc::new(analysis)));
                        }
                    }
                    Task::Free(seen) => drop(seen),
                }
            }
        };
        // Where the system gives no thread, nobody receives, and each look is answered as one that failed.
        drop(thread::Builder::new().name("look".into()).spawn(look));
        Self { tasks: work, analysis_lock: Mutex::new(()) }
    }

    /// `None` when the look failed.
    pub async fn analyse(&self, job: AnalysisJob) -> Option<Arc<Analysis>> {
        let (answer, done) = oneshot::channel();
        self.tasks.send(Task::Analyse(Box::new(job), answer)).await.ok()?;
        done.await.ok()
    }

    /// Frees it where it was made, unless somebody still reads it or there is a crowd.
    pub fn free(&self, seen: Arc<Analysis>) {
        drop(self.tasks.try_send(Task::Free(seen)));
    }
}

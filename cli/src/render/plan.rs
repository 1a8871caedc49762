//! A plan as text: one line per step, with its cause.

use protocol::plan::PlanReply;

use super::table::{self, Cell};
use crate::humanize;
use crate::terminal::Paint;

pub(crate) fn lines(reply: &PlanReply, paint: Paint) -> Vec<String> {
    let title = paint.bold(&reply.preview.title);
    let mut lines = Vec::new();
    if reply.plan.unchanged {
        lines.push(format!("{title}: nothing to do, everything matches the manifest"));
    } else {
        lines.push(format!("{title}: {}", humanize::count(reply.plan.steps.len(), "step")));
        let rows: Vec<Vec<Cell>> = reply
            .plan
            .steps
            .iter()
            .map(|step| {
                let runtime = step.runtime.as_ref().map(|runtime| format!("({runtime})")).unwrap_or_default();
                let because = match &step.destroys {
                    Some(lost) => format!("{} (destroys {lost})", step.because),
                    None => step.because.clone(),
                };
                let codes = if step.destroys.is_some() { "31" } else { "2" };
                vec![
                    Cell::painted((step.id + 1).to_string(), "2"),
                    Cell::new(&step.text),
                    Cell::painted(runtime, "2"),
                    Cell::painted(because, codes),
                ]
            })
            .collect();
        lines.extend(table::lines(&["", "", "", ""], &rows, 2, paint));
    }
    lines.extend(reply.notes.iter().map(|note| format!("{} {note}", paint.yellow("note:"))));
    lines
}

//! Steps: one operation and its row of the barrier, in one script.
//!
//! Theory of operation. The rows are judged here, by the rules of `barrier.rs`; the script carries
//! out what follows only if the rows are as they were thought to be, and otherwise gives them back
//! to be judged again. An operation that is done for the first time thinks of no rows, so it takes
//! one question. Invariants: effect and row come in one step of the server's; a key that a
//! prepared transaction holds is neither written nor checked; a repeated question is answered from
//! its row.

use tokio::time::Instant;

use crate::crash;
use crate::model::operation::Operation;
use crate::model::step::{StepAnswer, Work};
use crate::model::value::Value;
use crate::participants::ExecuteAsk;
use crate::participants::barrier::{self, Standing, Verdict};

use super::delivery::repeated;
use super::link::Trouble;
use super::operation::Task;
use super::scope::Scope;
use super::script::{Call, Script, Words};
use super::{Inner, deadline};

/// How many old rows go with each step.
const PURGED_MAX: u32 = 4;
/// Each of an operation's two rows is written once, so the third look is the last.
const LOOKS_MAX: u32 = 4;

/// Does a step, or finds that it was done.
pub(super) async fn step(inner: &Inner, ask: &ExecuteAsk) -> StepAnswer {
    let Some(scope) = inner.scope() else {
        let name = &inner.name;
        return barrier::try_again(format!("the Redis store '{name}' was not attached"));
    };
    crash::point("store_step", scope.store.as_str());
    let by = deadline(ask.timeout);
    let answer = match looks(inner, &scope, ask, by).await {
        Ok(answer) => answer,
        Err(trouble) => return answer_to(trouble),
    };
    // Also what was done before may not be on the disk yet.
    if let StepAnswer::Done { .. } = answer
        && let Err(message) = inner.link.settle(by).await
    {
        return barrier::unknown(message);
    }
    crash::point("store_step_committed", scope.store.as_str());
    answer
}

/// An error of the server's comes before any effect, or the script has taken its row back.
fn answer_to(trouble: Trouble) -> StepAnswer {
    match trouble {
        Trouble::Refused(message) => barrier::try_again(message),
        Trouble::Failed(message) => barrier::failed(message),
        Trouble::Lost(message) => barrier::unknown(message),
    }
}

async fn looks(
    inner: &Inner,
    scope: &Scope,
    ask: &ExecuteAsk,
    by: Instant,
) -> Result<StepAnswer, Trouble> {
    let mut standing = Standing::default();
    for look in 0..LOOKS_MAX {
        // An undoing needs to know what was done; nothing is judged before it was looked.
        let knows = look > 0 || ask.work == Work::Execute;
        let asked = match knows.then(|| standing.judge(ask.work)) {
            None => Asked::look(),
            Some(Verdict::Answer(answer)) => return Ok(answer),
            Some(Verdict::RecordEmpty) => Asked::empty(),
            Some(Verdict::Perform) => match Asked::perform(ask, &standing) {
                Ok(asked) => asked,
                Err(message) => return Ok(barrier::failed(message)),
            },
        };
        let task = asked.operation.as_ref().map(|operation| Task::read(operation, &inner.prefix));
        let task = match task.transpose() {
            Ok(task) => task,
            Err(message) => return Ok(barrier::failed(barrier::of_work(ask, message))),
        };
        let call = match asked.call(scope, ask, &standing, task.as_ref()) {
            Ok(call) => call,
            Err(what) => {
                return Ok(barrier::failed(format!("{}: {what}", barrier::name_of(ask))));
            }
        };
        let words = repeated(inner, &call, by).await?;
        match words.text(0).as_str() {
            "rows" => standing = rows(&words),
            _ => return Ok(read(&words, ask, &asked, task.as_ref())),
        }
    }
    Ok(barrier::try_again("its rows change all the time".to_owned()))
}

/// The rows that stand, as the script gives them.
fn rows(words: &Words) -> Standing {
    let mut standing = Standing::default();
    for (work, place) in [(Work::Execute, 1), (Work::Compensate, 3)] {
        if words.flag(place) {
            let json = words.text(place + 1);
            standing.take_row(work.as_str(), (!json.is_empty()).then_some(json.as_str()));
        }
    }
    standing
}

/// What the script is asked to do.
#[derive(Default)]
struct Asked {
    /// Whether only the rows are wanted.
    is_look: bool,
    operation: Option<Operation>,
    /// What stands afterwards, where the key had no value before, and where it had one.
    after: Option<(Standing, Standing)>,
}

impl Asked {
    fn look() -> Self {
        Self { is_look: true, ..Self::default() }
    }

    fn empty() -> Self {
        Self { after: Some((Standing::emptied(), Standing::emptied())), ..Self::default() }
    }

    fn perform(ask: &ExecuteAsk, standing: &Standing) -> Result<Self, String> {
        let operation =
            standing.operation(ask).map_err(|what| format!("{} {what}", barrier::name_of(ask)))?;
        let after = |existed: bool| standing.with(ask.work, result(operation.as_ref(), existed));
        Ok(Self { is_look: false, after: Some((after(false), after(true))), operation })
    }

    fn call(
        &self,
        scope: &Scope,
        ask: &ExecuteAsk,
        standing: &Standing,
        task: Option<&Task<'_>>,
    ) -> Result<Call, String> {
        let field = |work| Scope::row(ask.id(), ask.operation(), work);
        let stands = |work| standing.rows().any(|(there, _)| there == work);
        let mut call = Call::new(Script::Step, scope);
        call.text(field(Work::Execute)).text(field(Work::Compensate));
        if self.is_look {
            // What nobody can think, so the rows are given.
            call.text("0").text("look");
            return Ok(call);
        }
        call.flag(stands(Work::Execute)).flag(stands(Work::Compensate));
        call.text(barrier::KEPT.as_secs()).text(PURGED_MAX).flag(ask.work == Work::Compensate);
        call.text(task.iter().count());
        if let Some(task) = task {
            task.add_to(&mut call);
        }
        let Some((absent, existed)) = &self.after else { return Ok(call) };
        let added = |after: &Standing| -> Result<Vec<(Work, String)>, String> {
            let new = after.rows().filter(|(work, _)| !stands(*work));
            new.map(|(work, result)| Ok((work, encoded(result)?))).collect()
        };
        let (absent, existed) = (added(absent)?, added(existed)?);
        call.text(absent.len());
        for ((work, if_absent), (_, if_existed)) in absent.into_iter().zip(existed) {
            call.text(field(work)).text(if_absent).text(if_existed);
        }
        Ok(call)
    }
}

/// What the work gives; work without an operation gives nothing.
fn result(operation: Option<&Operation>, existed: bool) -> Value {
    operation.map_or(Value::Null, |_| barrier::key_result(existed))
}

/// A row's text; no JSON is empty, so the empty one says that it was never done.
fn encoded(result: Option<&Value>) -> Result<String, String> {
    result.map_or_else(|| Ok(String::new()), barrier::encode)
}

fn read(words: &Words, ask: &ExecuteAsk, asked: &Asked, task: Option<&Task<'_>>) -> StepAnswer {
    let say = |what: &dyn Fn(&Task<'_>) -> String| match task {
        Some(task) => barrier::of_work(ask, what(task)),
        None => barrier::name_of(ask),
    };
    match words.text(0).as_str() {
        "done" => barrier::done(&result(asked.operation.as_ref(), words.flag(1))),
        "held" => barrier::try_again(say(&|task| task.held_by(&words.text(1)))),
        "check" => barrier::failed(say(&|task| task.check_failed(&words.text(1)))),
        "forbidden" => barrier::failed(say(&|task| task.forbidden())),
        other => barrier::unknown(format!("the server's answer '{other}' is not understood")),
    }
}

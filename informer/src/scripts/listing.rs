//! The scripts of a definition, each with the path of its field, so that a definition with a broken one can be refused.

use serde_json::Value;

use super::{Error, Language, Pool};

/// The line that a LAMBDA's function puts before its script.
const LAMBDA_HEAD: &str = "(function () {\n";
/// What it puts behind it.
const LAMBDA_TAIL: &str = "\n})()";

/// A script in a definition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Script {
    /// The field's path, like `$.tasks[0].loopCondition`.
    pub path: String,
    /// What it is written in.
    pub language: Language,
    /// As it stands in the definition.
    pub source: String,
    /// The body of a function (LAMBDA).
    is_body: bool,
}

impl Script {
    /// Whether it can be read; it is not run.
    ///
    /// # Errors
    /// [`Error::Syntax`] with its line in the field if not, or why that cannot be told.
    pub fn check(&self, pool: &Pool) -> Result<(), Error> {
        if !self.is_body {
            return pool.syntax(self.language, &self.source);
        }
        let whole = format!("{LAMBDA_HEAD}{}{LAMBDA_TAIL}", self.source);
        pool.syntax(self.language, &whole).map_err(|error| match error {
            Error::Syntax { line, message } => Error::Syntax { line: line.map(|line| line.saturating_sub(1)), message },
            other => other,
        })
    }
}

/// Every script of a definition in Conductor's JSON, in the definition's order, those of inline sub-workflows included. A script
/// that is put together at run time (by `${…}` in an input parameter) is not there.
#[must_use]
pub fn scripts_of(definition: &Value) -> Vec<Script> {
    let mut found = Vec::new();
    tasks(definition.get("tasks"), "$.tasks", &mut found);
    found
}

fn tasks(list: Option<&Value>, path: &str, found: &mut Vec<Script>) {
    for (index, one) in list.and_then(Value::as_array).into_iter().flatten().enumerate() {
        task(one, &format!("{path}[{index}]"), found);
    }
}

fn task(task: &Value, path: &str, found: &mut Vec<Script>) {
    own(task, path, found);
    for (case, list) in task.get("decisionCases").and_then(Value::as_object).into_iter().flatten() {
        tasks(Some(list), &format!("{path}.decisionCases.{case}"), found);
    }
    for key in ["defaultCase", "loopOver"] {
        tasks(task.get(key), &format!("{path}.{key}"), found);
    }
    for (index, branch) in task.get("forkTasks").and_then(Value::as_array).into_iter().flatten().enumerate() {
        tasks(Some(branch), &format!("{path}.forkTasks[{index}]"), found);
    }
    let inline = task.get("subWorkflowParam").and_then(|sub| sub.get("workflowDefinition"));
    let inline_path = format!("{path}.subWorkflowParam.workflowDefinition.tasks");
    tasks(inline.and_then(|definition| definition.get("tasks")), &inline_path, found);
}

/// The script of the task itself.
fn own(task: &Value, path: &str, found: &mut Vec<Script>) {
    use Language::{JavaScript, Jq};
    let text = |from: Option<&Value>, key: &str| Some(from?.get(key)?.as_str()?.to_owned());
    let is_script =
        |from: Option<&Value>| matches!(text(from, "evaluatorType").as_deref(), Some("javascript" | "graaljs"));
    let input = task.get("inputParameters");
    let (key, language, from) = match task.get("type").and_then(Value::as_str) {
        Some("SWITCH") if is_script(Some(task)) => ("expression", JavaScript, None),
        Some("DECISION") => ("caseExpression", JavaScript, None),
        Some("DO_WHILE") => ("loopCondition", JavaScript, None),
        Some("INLINE") if is_script(input) || text(input, "evaluatorType").is_none() => {
            ("expression", JavaScript, input)
        }
        Some("LAMBDA") => ("scriptExpression", JavaScript, input),
        Some("JSON_JQ_TRANSFORM") => ("queryExpression", Jq, input),
        _ => return,
    };
    let Some(source) = text(Some(from.unwrap_or(task)), key).filter(|source| !source.trim().is_empty()) else { return };
    let is_put_together = from.is_some() && source.contains("${");
    if !is_put_together {
        let at = if from.is_some() { format!("{path}.inputParameters.{key}") } else { format!("{path}.{key}") };
        found.push(Script { path: at, language, source, is_body: key == "scriptExpression" });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_place_of_a_script_is_known() {
        let definition = json!({"tasks": [
            {"type": "SWITCH", "evaluatorType": "javascript", "expression": "1", "decisionCases": {
                "a": [{"type": "INLINE", "inputParameters": {"expression": "2"}}]}, "defaultCase": [
                {"type": "DO_WHILE", "loopCondition": "3", "loopOver": [
                    {"type": "LAMBDA", "inputParameters": {"scriptExpression": "return 4"}}]}]},
            {"type": "FORK_JOIN", "forkTasks": [[], [
                {"type": "JSON_JQ_TRANSFORM", "inputParameters": {"queryExpression": "5"}}]]},
            {"type": "SUB_WORKFLOW", "subWorkflowParam": {"workflowDefinition": {"tasks": [
                {"type": "DECISION", "caseExpression": "6"}]}}}]});
        let found: Vec<String> =
            scripts_of(&definition).into_iter().map(|script| format!("{} {}", script.path, script.source)).collect();
        assert_eq!(
            found,
            [
                "$.tasks[0].expression 1",
                "$.tasks[0].decisionCases.a[0].inputParameters.expression 2",
                "$.tasks[0].defaultCase[0].loopCondition 3",
                "$.tasks[0].defaultCase[0].loopOver[0].inputParameters.scriptExpression return 4",
                "$.tasks[1].forkTasks[1][0].inputParameters.queryExpression 5",
                "$.tasks[2].subWorkflowParam.workflowDefinition.tasks[0].caseExpression 6",
            ]
        );
    }

    #[test]
    fn what_is_no_script_of_its_own_is_left_out() {
        let definition = json!({"tasks": [
            {"type": "SWITCH", "evaluatorType": "value-param", "expression": "case"},
            {"type": "INLINE", "inputParameters": {"evaluatorType": "value-param", "expression": "a"}},
            {"type": "INLINE", "inputParameters": {"expression": "${workflow.input.script}"}},
            {"type": "DECISION", "caseValueParam": "x"},
            {"type": "DECISION", "caseExpression": " "},
            {"type": "SIMPLE", "name": "x"}]});
        assert_eq!(scripts_of(&definition), []);
        assert_eq!(scripts_of(&json!([1])), []);
    }
}

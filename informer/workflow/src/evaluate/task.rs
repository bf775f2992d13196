//! A task's input, and what its kind decides from it.

use serde_json::{Map, Value, json};

use super::context::Facts;
use super::wait;
use super::{Answer, ChildStart, Evaluation, Fault, Handle, MAX_VARIABLES_BYTES, Output, Wait};
use crate::definition::{DoWhile, Kind, SubWorkflow, Switch, SwitchOn};
use crate::expression::{self, Template};
use crate::run::RunStatus;

type Object = Map<String, Value>;

impl Evaluation<'_> {
    pub(super) fn task(&self, given: Option<Handle>, child: &str) -> Result<Answer, Fault> {
        let node = self.node()?;
        let facts = self.facts();
        let mut input = self.input(given, &facts)?;
        match &node.kind {
            Kind::DynamicFork(fork) => return self.forked(fork, input, &facts),
            Kind::DoWhile(looped) => return self.looping(looped, input, &facts),
            Kind::Join { .. } | Kind::ExclusiveJoin { .. } | Kind::Fork { .. } => {
                return Err(Fault::terminal("forks and joins have no input to evaluate"));
            }
            Kind::Switch(switch) => return self.choose(switch, input),
            Kind::SubWorkflow(sub) => return self.sub_workflow(sub, &input, &facts),
            Kind::Dynamic { param } => return self.dynamic(param, input),
            Kind::Event { sink } => return self.event(sink, input),
            _ => {}
        }
        if matches!(node.kind, Kind::Http) {
            input.entry("asyncComplete").or_insert(json!(node.async_complete));
        }
        let stored = self.put(&Value::Object(input.clone()))?;
        let answer = match &node.kind {
            Kind::Simple | Kind::Http | Kind::Human => Ok(Answer::Ready { input: stored, wait: Wait::Word }),
            Kind::Wait => wait::of(&input).map(|wait| Answer::Ready { input: stored, wait }).map_err(Fault::terminal),
            Kind::StartWorkflow => self.start_workflow(&input, stored, child),
            Kind::Terminate => self.terminate(&input, stored),
            Kind::SetVariable => self.set_variable(input, stored),
            Kind::Inline => self.inline(&input, stored),
            Kind::Lambda => self.lambda(&input, stored),
            _ => self.jq(&input, stored),
        };
        answer.map_err(|fault| fault.with(stored))
    }

    /// The resolved parameters, over them what a dynamic fork gave, under them the task definition's template.
    pub(super) fn input(&self, given: Option<Handle>, facts: &Facts<'_>) -> Result<Object, Fault> {
        let node = self.node()?;
        let mut input = resolve_map(&node.input, facts)?;
        if let Some(given) = given
            && let Value::Object(given) = self.get(Some(given))?.as_ref()
        {
            given.iter().for_each(|(key, value)| drop(input.insert(key.clone(), value.clone())));
        }
        if let Some(definition) = &node.definition {
            for (key, value) in resolve_map(&definition.input_template, facts)? {
                if input.get(&key).is_none_or(Value::is_null) {
                    input.insert(key, value);
                }
            }
        }
        Ok(input)
    }

    fn choose(&self, switch: &Switch<Option<u32>>, mut input: Object) -> Result<Answer, Fault> {
        let value = match &switch.on {
            SwitchOn::Param(param) => Ok(input.get(param).cloned().unwrap_or(Value::Null)),
            SwitchOn::Script(script) => self.tools.scripts.javascript(script, &Value::Object(input.clone())),
        };
        let value = match value {
            Ok(value) => value,
            Err(reason) => {
                let stored = self.put(&Value::Object(input))?;
                return Err(Fault::task(format!("the expression of the switch failed: {reason}")).with(stored));
            }
        };
        let case = text(&value);
        input.insert("case".to_owned(), json!(case));
        let output = if switch.decision {
            json!({"caseOutput": [case]})
        } else {
            json!({"evaluationResult": [case], "selectedCase": case})
        };
        let (input, output) = (self.put(&Value::Object(input))?, self.put(&output)?);
        Ok(Answer::Chosen { input, output, case })
    }

    fn looping(&self, looped: &DoWhile<Option<u32>>, mut input: Object, facts: &Facts<'_>) -> Result<Answer, Fault> {
        let keep_last = input.get("keepLastN").and_then(number).filter(|keep| *keep > 0);
        let mut count = None;
        if let Some(items) = &looped.items {
            let items = resolve(items, facts)?;
            let Value::Array(list) = &items else {
                return Err(Fault::terminal("the items of the loop are no list"));
            };
            count = Some(u32::try_from(list.len()).unwrap_or(u32::MAX));
            input.insert("items".to_owned(), items);
        }
        Ok(Answer::Looping { input: self.put(&Value::Object(input))?, items: count, keep_last })
    }

    fn sub_workflow(&self, sub: &SubWorkflow, input: &Object, facts: &Facts<'_>) -> Result<Answer, Fault> {
        let stored = self.put(&Value::Object(input.clone()))?;
        let given = |value: &Option<Value>| value.as_ref().map(|value| resolve(value, facts)).transpose();
        let name = given(&sub.name.clone().map(Value::String))?;
        let mut definition = match &sub.definition {
            Some(text @ Value::String(_)) => Some(resolve(text, facts)?),
            inline => inline.clone(),
        };
        if let Some(definition) = &mut definition {
            crate::definition::populate(definition, &|name| self.tools.registry.task_definition(name));
            if let Err(refused) = crate::definition::Definition::parse(definition) {
                return Err(Fault::terminal(format!("the workflowDefinition is refused: {refused}")).with(stored));
            }
        }
        let inline = definition.as_ref().and_then(|definition| definition.get("name")).and_then(Value::as_str);
        let name = name.as_ref().and_then(Value::as_str).or(inline).map(str::to_owned);
        let Some(name) = name.filter(|name| !name.is_empty()) else {
            return Err(Fault::terminal("subWorkflowParam.name gives no name").with(stored));
        };
        let start = ChildStart {
            name,
            version: given(&sub.version)?.as_ref().and_then(number).filter(|version| *version > 0),
            definition: definition.as_ref().map(|definition| self.keep(definition)).transpose()?,
            input: stored,
            correlation: self.question.sources.run.correlation.clone(),
            priority: given(&sub.priority)?.as_ref().and_then(number),
        };
        Ok(Answer::Child { input: stored, start, output: None })
    }

    fn start_workflow(&self, input: &Object, stored: Option<Handle>, child: &str) -> Result<Answer, Fault> {
        let Some(Value::Object(request)) = input.get("startWorkflow") else {
            return Err(Fault::task("startWorkflow in the input is no object; give it name, version and input"));
        };
        let Some(Value::String(name)) = request.get("name").filter(|name| name.as_str() != Some("")) else {
            return Err(Fault::task("startWorkflow.name in the input is missing"));
        };
        let version = match request.get("version").filter(|version| !version.is_null()) {
            None => None,
            Some(version) => Some(number(version).ok_or_else(|| Fault::task("startWorkflow.version is no number"))?),
        };
        let child_input = match request.get("input") {
            None | Some(Value::Null) => None,
            Some(input @ Value::Object(_)) => self.put(input)?,
            Some(_) => return Err(Fault::task("startWorkflow.input is no object")),
        };
        let mut definition = request.get("workflowDef").filter(|definition| definition.is_object()).cloned();
        if let Some(definition) = &mut definition {
            crate::definition::populate(definition, &|name| self.tools.registry.task_definition(name));
        }
        let correlation = request.get("correlationId").and_then(Value::as_str).map(str::to_owned);
        let start = ChildStart {
            name: name.clone(),
            version,
            definition: definition.as_ref().map(|definition| self.keep(definition)).transpose()?,
            input: child_input,
            correlation: correlation.or_else(|| self.question.sources.run.correlation.clone()),
            priority: request.get("priority").and_then(number),
        };
        Ok(Answer::Child { input: stored, start, output: self.put(&json!({"workflowId": child}))? })
    }

    fn event(&self, sink: &str, mut input: Object) -> Result<Answer, Fault> {
        let run = &self.question.sources.run;
        let name = sink.strip_prefix("conductor:").unwrap_or(&self.node()?.reference);
        let event = format!("conductor:{}:{name}", run.name);
        input.insert("workflowInstanceId".to_owned(), json!(run.id));
        input.insert("workflowType".to_owned(), json!(run.name));
        input.insert("workflowVersion".to_owned(), json!(run.version));
        input.insert("correlationId".to_owned(), json!(run.correlation));
        let stored = self.put(&Value::Object(input.clone()))?;
        input.insert("event_produced".to_owned(), json!(event));
        Ok(Answer::Published { input: stored, payload: self.keep(&Value::Object(input))?, event })
    }

    fn terminate(&self, input: &Object, stored: Option<Handle>) -> Result<Answer, Fault> {
        let status = match input.get("terminationStatus").and_then(Value::as_str) {
            Some("COMPLETED") => RunStatus::Completed,
            Some("FAILED") => RunStatus::Failed,
            Some("TERMINATED") => RunStatus::Terminated,
            other => {
                let found = other.unwrap_or("nothing");
                return Err(Fault::task(format!("terminationStatus is {found}; use COMPLETED, FAILED or TERMINATED")));
            }
        };
        let output = match input.get("workflowOutput") {
            None | Some(Value::Null) => None,
            Some(map @ Value::Object(_)) => self.put(map)?,
            Some(other) => self.put(&json!({"output": other}))?,
        };
        let reason = input.get("terminationReason").filter(|reason| !reason.is_null()).map(text);
        Ok(Answer::Terminate { input: stored, output, status, reason })
    }

    fn set_variable(&self, input: Object, stored: Option<Handle>) -> Result<Answer, Fault> {
        let mut variables = self.get(self.question.sources.run.variables)?.as_object().cloned().unwrap_or_default();
        variables.extend(input);
        let variables = Value::Object(variables);
        let bytes = expression::weigh(&variables);
        if bytes > MAX_VARIABLES_BYTES {
            let message =
                format!("the variables would have about {bytes} bytes, at most {MAX_VARIABLES_BYTES} are allowed");
            return Err(Fault::terminal(message));
        }
        Ok(Answer::Variables { input: stored, variables: self.keep(&variables)? })
    }

    fn inline(&self, input: &Object, stored: Option<Handle>) -> Result<Answer, Fault> {
        let Some(Value::String(script)) = input.get("expression") else {
            return Err(Fault::terminal("expression in the input is no text"));
        };
        let result = match input.get("evaluatorType").and_then(Value::as_str) {
            None | Some("javascript" | "graaljs") => {
                let given = Value::Object(input.clone());
                self.tools.scripts.javascript(script, &given).map_err(Fault::terminal)?
            }
            Some("value-param") => input.get(script).cloned().unwrap_or(Value::Null),
            Some(other) => {
                return Err(Fault::terminal(format!(
                    "evaluatorType {other:?} is not supported; use javascript or value-param"
                )));
            }
        };
        Ok(Answer::Done { input: stored, output: self.put(&json!({"result": result}))? })
    }

    fn lambda(&self, input: &Object, stored: Option<Handle>) -> Result<Answer, Fault> {
        let Some(Value::String(script)) = input.get("scriptExpression") else {
            return Err(Fault::task("scriptExpression in the input is no text"));
        };
        let script = format!("(function () {{\n{script}\n}})()");
        let result = self.tools.scripts.javascript(&script, &Value::Object(input.clone())).map_err(Fault::task)?;
        Ok(Answer::Done { input: stored, output: self.put(&json!({"result": result}))? })
    }

    fn jq(&self, input: &Object, stored: Option<Handle>) -> Result<Answer, Fault> {
        let Some(Value::String(program)) = input.get("queryExpression") else {
            return Err(Fault::task("queryExpression in the input is no text"));
        };
        let results = self.tools.scripts.jq(program, &Value::Object(input.clone())).map_err(Fault::task)?;
        let output = json!({"result": results.first(), "resultList": results});
        Ok(Answer::Done { input: stored, output: self.put(&output)? })
    }

    /// Whether a loop goes on: its script over its input, its output so far and the latest output of each task in it.
    pub(super) fn condition(&self) -> Result<Answer, Fault> {
        let node = self.node()?;
        let facts = self.facts();
        let Kind::DoWhile(DoWhile { condition: Some(script), .. }) = &node.kind else {
            return Err(Fault::terminal("the loop has no condition"));
        };
        let mut input = self.input(None, &facts)?;
        for (name, task) in &self.question.sources.tasks {
            input.insert(name.clone(), facts.output(task).map_err(Fault::terminal)?.as_ref().clone());
        }
        let value = self.tools.scripts.javascript(script, &Value::Object(input));
        let value = value.map_err(|reason| Fault::terminal(format!("the condition {script:?} failed: {reason}")))?;
        Ok(Answer::Again(match value {
            Value::Bool(flag) => flag,
            Value::Number(number) => number.as_f64().is_some_and(|number| number > 0.0),
            _ => false,
        }))
    }

    pub(super) fn loop_output(&self) -> Result<Answer, Fault> {
        let Some((_, task)) = self.question.sources.tasks.first() else {
            return Err(Fault::terminal("the question has no loop"));
        };
        debug_assert!(matches!(task.output, Output::Loop { .. }), "only loops are asked for their rounds");
        let output = self.facts().output(task).map_err(Fault::terminal)?;
        let mut output = output.as_object().cloned().unwrap_or_default();
        output.shift_remove("loopItem");
        output.shift_remove("loopIndex");
        Ok(Answer::Output(self.put(&Value::Object(output))?))
    }
}

pub(super) fn resolve(value: &Value, facts: &Facts<'_>) -> Result<Value, Fault> {
    let template = Template::parse(value).map_err(|error| Fault::terminal(error.to_string()))?;
    template.resolve(facts).map_err(|error| Fault::terminal(error.to_string()))
}

pub(super) fn resolve_map(map: &Object, facts: &Facts<'_>) -> Result<Object, Fault> {
    let mut resolved = Object::new();
    for (key, value) in map {
        resolved.insert(key.clone(), resolve(value, facts)?);
    }
    Ok(resolved)
}

/// A value as Java would print it in a comparison with cases.
pub(super) fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => match number.as_f64() {
            Some(float) if number.is_f64() && float.fract() == 0.0 && float.abs() < 1e15 => format!("{float:.0}"),
            _ => number.to_string(),
        },
        other => other.to_string(),
    }
}

/// A whole number, also one that came as text.
fn number(value: &Value) -> Option<u32> {
    let number = match value {
        Value::Number(number) => {
            number.as_u64().or_else(|| number.as_f64().filter(|n| *n >= 0.0 && n.fract() == 0.0).map(|n| n as u64))
        }
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    number.and_then(|number| u32::try_from(number).ok())
}

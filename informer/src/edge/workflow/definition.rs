//! Definitions: registered, read, listed, taken away.

use super::super::error::Error;
use super::{Workflows, fault, json, show, text};
use crate::shell::{Put, PutError};
use proto::check;
use proto::store::{DefinitionRow, TaskDefinitionRow};
use proto::{bounds, v1};
use serde_json::Value;

/// Definitions with their JSON in one page: each may be large.
const WITH_JSON: usize = 100;

impl From<PutError> for Error {
    fn from(error: PutError) -> Self {
        match error {
            PutError::Refused(refused) => Self::Definition(refused.to_string()),
            PutError::Script(why) => Self::Definition(why),
            PutError::Shell(error) => Self::Shell(error),
        }
    }
}

fn definition(text: &str) -> Result<Value, Error> {
    let json = json("json", text, bounds::DEFINITION_BYTES)?;
    json.ok_or_else(|| fault("json", "it is empty", "give a definition in Conductor's JSON"))
}

fn notes(put: &Put) -> Vec<v1::DefinitionNote> {
    let note = |note: &workflow::definition::Note| v1::DefinitionNote {
        path: note.path.clone(),
        message: note.message.clone(),
    };
    put.notes.iter().map(note).collect()
}

fn shown(row: DefinitionRow, with_json: bool) -> v1::WorkflowDefinition {
    v1::WorkflowDefinition {
        name: row.name,
        version: row.version,
        json: if with_json { show::text(&row.json) } else { String::new() },
        created_unix_ms: row.created_unix_ms,
        updated_unix_ms: row.updated_unix_ms,
    }
}

fn shown_task(row: TaskDefinitionRow) -> v1::TaskDefinition {
    v1::TaskDefinition {
        name: row.name,
        json: show::text(&row.json),
        created_unix_ms: row.created_unix_ms,
        updated_unix_ms: row.updated_unix_ms,
    }
}

impl Workflows {
    pub(in super::super) async fn on_put_definition(
        &self,
        request: v1::PutDefinitionRequest,
    ) -> Result<v1::PutDefinitionResponse, Error> {
        let put = self.edge.handle.put_definition(definition(&request.json)?, request.replace).await?;
        let notes = notes(&put);
        Ok(v1::PutDefinitionResponse { name: put.name, version: put.version, existed: put.existed, notes })
    }

    pub(in super::super) async fn on_get_definition(
        &self,
        request: v1::GetDefinitionRequest,
    ) -> Result<v1::WorkflowDefinition, Error> {
        let version = (request.version > 0).then_some(request.version);
        let row = self.edge.handle.definition(request.name.clone(), version).await?;
        let row = row.ok_or(Error::UnknownDefinition { name: request.name, version: request.version })?;
        Ok(shown(row, true))
    }

    pub(in super::super) async fn on_list_definitions(
        &self,
        request: v1::ListDefinitionsRequest,
    ) -> Result<v1::ListDefinitionsResponse, Error> {
        let limit = check::page_size(request.page_size)? as usize;
        let after = match request.page_token.as_str() {
            "" => None,
            token => Some(
                token
                    .split_once(' ')
                    .and_then(|(version, name)| Some((name.to_owned(), version.parse().ok()?)))
                    .ok_or_else(|| {
                        fault("page_token", "it is none of ours", "use the one that the page before told")
                    })?,
            ),
        };
        let name = text("name", request.name)?;
        let rows = self.edge.handle.definitions(name, after, limit).await?;
        let full = rows.len() == limit;
        let next = rows.last().filter(|_| full).map(|row| format!("{} {}", row.version, row.name));
        Ok(v1::ListDefinitionsResponse {
            definitions: rows.into_iter().map(|row| shown(row, false)).collect(),
            next_page_token: next.unwrap_or_default(),
        })
    }

    pub(in super::super) async fn on_delete_definition(
        &self,
        request: v1::DeleteDefinitionRequest,
    ) -> Result<v1::DeleteDefinitionResponse, Error> {
        let existed = self.edge.handle.delete_definition(request.name, request.version).await?;
        Ok(v1::DeleteDefinitionResponse { existed })
    }

    pub(in super::super) async fn on_put_task_definition(
        &self,
        request: v1::PutTaskDefinitionRequest,
    ) -> Result<v1::PutTaskDefinitionResponse, Error> {
        let put = self.edge.handle.put_task_definition(definition(&request.json)?).await?;
        let notes = notes(&put);
        Ok(v1::PutTaskDefinitionResponse { name: put.name, existed: put.existed, notes })
    }

    pub(in super::super) async fn on_get_task_definition(
        &self,
        request: v1::GetTaskDefinitionRequest,
    ) -> Result<v1::TaskDefinition, Error> {
        let row = self.edge.handle.task_definition(request.name.clone()).await?;
        row.map(shown_task).ok_or(Error::UnknownDefinition { name: request.name, version: 0 })
    }

    pub(in super::super) async fn on_list_task_definitions(
        &self,
        request: v1::ListTaskDefinitionsRequest,
    ) -> Result<v1::ListTaskDefinitionsResponse, Error> {
        let limit = (check::page_size(request.page_size)? as usize).min(WITH_JSON);
        let after = Some(request.page_token).filter(|token| !token.is_empty());
        let rows = self.edge.handle.task_definitions(after, limit).await?;
        let full = rows.len() == limit;
        let mut answer = v1::ListTaskDefinitionsResponse::default();
        let mut bytes = 0;
        let last = rows.last().map(|row| row.name.clone());
        for row in rows {
            bytes += row.json.len();
            // What does not fit a message is on the next page.
            if bytes > bounds::RUN_PAGE_BYTES
                && let Some(last) = answer.definitions.last()
            {
                answer.next_page_token.clone_from(&last.name);
                return Ok(answer);
            }
            answer.definitions.push(shown_task(row));
        }
        answer.next_page_token = last.filter(|_| full).unwrap_or_default();
        Ok(answer)
    }

    pub(in super::super) async fn on_delete_task_definition(
        &self,
        request: v1::DeleteTaskDefinitionRequest,
    ) -> Result<v1::DeleteTaskDefinitionResponse, Error> {
        let existed = self.edge.handle.delete_task_definition(request.name).await?;
        Ok(v1::DeleteTaskDefinitionResponse { existed })
    }
}

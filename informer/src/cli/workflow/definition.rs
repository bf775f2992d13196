//! Definitions: registered from files, listed, shown, taken away.

use std::path::PathBuf;

use proto::{bounds, v1};
use serde_json::{Value, json};
use tonic::Code;
use workflow::definition::Bundle;

use super::super::{
    Context,
    client::Client,
    error::Error,
    file,
    screen::{Form, Screen},
    text,
};
use super::document;

/// Definitions asked for at once.
const PAGE: u32 = 500;

/// Bytes of a file of definitions: a few of the largest.
const FILE_BYTES: u64 = 8 * bounds::DEFINITION_BYTES as u64;

/// Arguments of `workflow put`.
#[derive(Debug, clap::Args)]
pub(super) struct Put {
    /// A workflow definition, a list of definitions, or {"taskDefs": […], "workflows": […]}; `-` is standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Replace another definition of the same version; otherwise that is refused
    #[arg(long)]
    replace: bool,
    /// Print what was registered as a JSON array
    #[arg(long)]
    json: bool,
}

/// Arguments of `workflow list`.
#[derive(Debug, clap::Args)]
pub(super) struct List {
    /// The versions of this one
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// Print a JSON array
    #[arg(long)]
    json: bool,
}

/// Arguments of `workflow show`.
#[derive(Debug, clap::Args)]
pub(super) struct Show {
    /// The workflow
    #[arg(value_name = "NAME")]
    name: String,
    /// Its version [default: the latest]
    #[arg(long, value_name = "N")]
    version: Option<u32>,
    /// The definition is JSON with or without this
    #[arg(long)]
    json: bool,
}

/// Arguments of `workflow delete`.
#[derive(Debug, clap::Args)]
pub(super) struct Delete {
    /// The workflow
    #[arg(value_name = "NAME")]
    name: String,
    /// This version only
    #[arg(long, value_name = "N")]
    version: Option<u32>,
    /// Print a JSON document that says whether there was one
    #[arg(long)]
    json: bool,
}

/// Putting the same again changes nothing, so a lost answer is asked for again.
pub(super) async fn put(args: Put, context: &Context) -> Result<u8, Error> {
    let text = file::read_bounded(&args.file, FILE_BYTES)?;
    let content = |line, problem: String| Error::Content { path: args.file.clone(), line, problem };
    let json: Value = serde_json::from_str(&text).map_err(|error| content(error.line().max(1), error.to_string()))?;
    let bundle = Bundle::parse(json).map_err(|refused| content(1, refused.to_string()))?.value;
    let client = context.connect().await?;
    let mut screen = Screen::new(context.verbose, Form::Bytes);
    let mut put = Vec::new();
    for definition in &bundle.task_definitions {
        let request = v1::PutTaskDefinitionRequest { json: definition.to_string() };
        let attempted = format!("register task definition {}", name(definition));
        let answer = client
            .again(&attempted, client.workflows(), async |mut grpc| grpc.put_task_definition(request.clone()).await)
            .await?;
        tell(&mut screen, &answer.name, answer.existed, &answer.notes);
        put.push(json!({"task_definition": answer.name, "existed": answer.existed}));
    }
    for definition in &bundle.workflows {
        let request = v1::PutDefinitionRequest { json: definition.to_string(), replace: args.replace };
        let attempted = format!("register workflow {}", name(definition));
        let answer = client
            .again(&attempted, client.workflows(), async |mut grpc| grpc.put_definition(request.clone()).await)
            .await?;
        tell(&mut screen, &answer.name, answer.existed, &answer.notes);
        put.push(json!({"workflow": answer.name, "version": answer.version, "existed": answer.existed}));
        if !args.json {
            super::super::print(&answer.version.to_string())?;
        }
    }
    if args.json {
        super::super::print_json(&Value::Array(put))?;
    }
    Ok(0)
}

/// A definition's name, for messages.
fn name(definition: &Value) -> String {
    definition["name"].as_str().unwrap_or("without a name").to_owned()
}

fn tell(screen: &mut Screen, name: &str, existed: bool, notes: &[v1::DefinitionNote]) {
    if existed {
        screen.note(&format!("{name}: the same one was registered already"));
    }
    for note in notes {
        screen.note(&format!("{name}: {}: {}", note.path, note.message));
    }
}

pub(super) async fn list(args: List, context: &Context) -> Result<u8, Error> {
    let client = context.connect().await?;
    let definitions = read(&client, args.name.unwrap_or_default()).await?;
    if args.json {
        super::super::print_json(&definitions.iter().map(document::definition).collect())?;
        return Ok(0);
    }
    let now = text::now_unix_ms();
    let row = |definition: &v1::WorkflowDefinition| {
        let (created, updated) = (definition.created_unix_ms, definition.updated_unix_ms);
        vec![definition.name.clone(), definition.version.to_string(), text::age(created, now), text::age(updated, now)]
    };
    let rows: Vec<_> = definitions.iter().map(row).collect();
    super::super::print(&text::table(&["NAME", "VERSION", "AGE", "CHANGED"], &rows))?;
    Ok(0)
}

async fn read(client: &Client, name: String) -> Result<Vec<v1::WorkflowDefinition>, Error> {
    let mut definitions = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = v1::ListDefinitionsRequest { name: name.clone(), page_size: PAGE, page_token };
        let answer = client
            .again("list workflows", client.workflows(), async |mut grpc| grpc.list_definitions(request.clone()).await)
            .await?;
        definitions.extend(answer.definitions);
        page_token = answer.next_page_token;
        if page_token.is_empty() {
            return Ok(definitions);
        }
    }
}

pub(super) async fn show(args: Show, context: &Context) -> Result<u8, Error> {
    let client = context.connect().await?;
    let request = v1::GetDefinitionRequest { name: args.name, version: args.version.unwrap_or(0) };
    let attempted = format!("show workflow {}", request.name);
    let answer = client
        .again(&attempted, client.workflows(), async |mut grpc| grpc.get_definition(request.clone()).await)
        .await?;
    super::super::print_json(&document::json(&answer.json))?;
    Ok(0)
}

pub(super) async fn delete(args: Delete, context: &Context) -> Result<u8, Error> {
    let client = context.connect().await?;
    let attempted = format!("delete workflow {}", args.name);
    let request = v1::DeleteDefinitionRequest { name: args.name, version: args.version.unwrap_or(0) };
    let answer = client
        .again(&attempted, client.workflows(), async |mut grpc| grpc.delete_definition(request.clone()).await)
        .await?;
    if args.json {
        super::super::print_json(&json!({"workflow": request.name, "existed": answer.existed}))?;
        return Ok(0);
    }
    if !answer.existed {
        let message = "there is none; `informer workflow list` shows what there is".to_owned();
        return Err(Error::Refused { attempted, code: Code::NotFound, message });
    }
    Ok(0)
}

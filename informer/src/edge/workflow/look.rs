//! A run looked at: what it waits for, and its flow chart.

use super::super::error::Error;
use super::{Workflows, fault, run_id};
use proto::{bounds, v1};
use workflow::chart::Chart;

/// Bytes of a chart that still fit a message. With 3,000 nodes, which is their bound, and names as long as they may be it is some
/// three megabytes.
const CHART_BYTES: usize = bounds::MESSAGE_BYTES - (64 << 10);

impl Workflows {
    pub(in super::super) async fn on_why_run(&self, request: v1::WhyRunRequest) -> Result<v1::WhyRunResponse, Error> {
        let id = run_id(&request.id)?;
        if let Some(why) = self.edge.handle.why_run(&id).await? {
            return Ok(why);
        }
        // What the machine does not hold is over and committed, or was never there.
        let row = self.row(&id).await?;
        let status = row.status().as_str_name().trim_start_matches("RUN_STATUS_").to_owned();
        let reason = super::show::own(&row).and_then(|own| own.reason);
        let summary = match reason {
            None => format!("it is over: {status}"),
            Some(reason) => format!("it is over: {status}: {reason}"),
        };
        Ok(v1::WhyRunResponse { summary, ..v1::WhyRunResponse::default() })
    }

    /// The chart of a run, or of a definition.
    pub(in super::super) async fn chart(&self, request: v1::ChartRequest) -> Result<Chart, Error> {
        let v1::ChartRequest { id, name, version, svg: _ } = request;
        match (id.is_empty(), name.is_empty()) {
            (false, true) => {
                let chart = self.edge.handle.chart(&run_id(&id)?).await?;
                chart.ok_or(Error::UnknownRun(id))
            }
            (true, false) => {
                let chart = self.edge.handle.chart_of(name.clone(), (version > 0).then_some(version)).await?;
                chart.ok_or(Error::UnknownDefinition { name, version })
            }
            _ => Err(fault("id", "a chart is of a run or of a definition", "give one of id and name")),
        }
    }

    /// The same as JSON or SVG.
    pub(in super::super) async fn on_chart(&self, request: v1::ChartRequest) -> Result<v1::ChartResponse, Error> {
        let svg = request.svg;
        let chart = self.chart(request).await?;
        let written = move || if svg { chart.svg() } else { serde_json::json!(chart).to_string() };
        let chart = tokio::task::spawn_blocking(written).await.map_err(|_| Error::Panicked)?;
        if chart.len() > CHART_BYTES {
            let problem = format!("its chart has {} bytes, which no message takes", chart.len());
            return Err(fault("id", problem, "read it by HTTP: /api/workflow/ID/chart"));
        }
        Ok(v1::ChartResponse { chart })
    }
}

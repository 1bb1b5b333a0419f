// What Grafana publishes of its dashboards (@grafana/schema), put together for the one that is checked: rows and graphs
// with queries to Prometheus. Values of enumerations may be written as they are in JSON.
import type * as grafana from '@grafana/schema';
import type * as all from '@grafana/schema/dist/esm/raw/dashboard/x/Dashboard_types.gen';
import type * as graphs from '@grafana/schema/dist/esm/raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen';

type Plain<T> = T extends string ? `${T}` : T extends object ? { [K in keyof T]: Plain<T[K]> } : T;

interface Query extends grafana.DataQuery {
  expr: string;
  legendFormat: string;
  datasource: all.DataSourceRef;
}

type Graph = Omit<all.Panel, 'type' | 'options' | 'fieldConfig' | 'targets'> & {
  type: 'timeseries';
  options: graphs.Options;
  fieldConfig: { defaults: Omit<all.FieldConfig, 'custom'> & { custom: graphs.FieldConfig }; overrides: [] };
  targets: Query[];
};

export type Dashboard = Plain<Omit<all.Dashboard, 'panels'> & { panels: (Graph | all.RowPanel)[] }>;

/** What a run looks like: the data that `nbtrain/view.py` makes, and what may be asked of it. */

export type Tone = 'busy' | 'good' | 'bad' | 'warn' | 'quiet';

/** What a list of runs shows of one. */
export interface RunSummary {
  id: string;
  name: string;
  backend: string;
  /** Where of the backend it is, such as the name of a cluster; may be empty. */
  context: string;
  status: string;
  tone: Tone;
  live: boolean;
  created: number;
  ended: number | null;
  doing: string;
  rest: string[];
  part: number;
  metric: string;
  crowd: number;
}

/** What the server's stream of all runs sends. */
export interface Changes {
  runs: RunSummary[];
  gone: string[];
  all: boolean;
  /** Why some runs can't be seen, such as "kubernetes: ..."; missing where nothing changed. */
  problems?: string[];
}

export interface Curve {
  label: string;
  points: [number, number | null][];
}

export interface Plot {
  name: string;
  first: number;
  last: number;
  lines: Curve[];
}

export interface Row {
  name: string;
  now: string;
  training: string;
  validation: string;
}

export interface Worker {
  sign: string;
  tone: Tone;
  about: string;
  rate: string;
  memory: string;
}

export interface RunView extends RunSummary {
  version: number;
  facts: string[];
  workers: Worker[];
  crew: string;
  speed: string;
  memory: string;
  bars: { name: string; part: number; said: string }[];
  caption: string;
  columns: ('now' | 'training' | 'validation')[];
  rows: Row[];
  plots: Plot[];
  notes: { tone: Tone; text: string; more: string }[];
  error: {
    headline: string;
    traceback: [string, boolean][];
    advice: string[];
  } | null;
  next: [string, string][];
  attach: string;
}

export interface LogPiece {
  text: string;
  offset: number;
  next: number;
  full: boolean;
}

/** What a view's buttons do; a button whose function is missing is not shown. */
export interface RunHost {
  stop?(): Promise<void>;
  remove?(): Promise<void>;
  tensorboard?(): Promise<{ command: string }>;
  log?(worker: number, offset: number): Promise<LogPiece>;
}

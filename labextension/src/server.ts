/** Jupyter's server with nbtrain's extension, as `nbtrain/openapi.yaml` describes it. */

import { LogPiece, RunSummary, RunView } from './run';

export interface FileEntry {
  path: string;
  bytes: number;
  mtime: number;
}

/** What makes requests: the page's own fetch, or JupyterLab's ServerConnection. */
export type Fetch = (url: string, init: RequestInit) => Promise<Response>;

export class Server {
  constructor(
    readonly baseUrl: string,
    private readonly fetch: Fetch
  ) {}

  /** Tell whether the server knows a run; servers without the extension don't. */
  async knows(id: string): Promise<boolean> {
    try {
      return (await this.fetch(this.url('runs', id), {})).ok;
    } catch {
      return false;
    }
  }

  async runs(): Promise<RunSummary[]> {
    return (await this.json<{ runs: RunSummary[] }>(this.url('runs'))).runs;
  }

  run(id: string): Promise<RunView> {
    return this.json(this.url('runs', id));
  }

  card(id: string): Promise<Record<string, unknown>> {
    return this.json(this.url('runs', id, 'card'));
  }

  async files(id: string): Promise<FileEntry[]> {
    return (await this.json<{ files: FileEntry[] }>(this.url('runs', id, 'files'))).files;
  }

  fileUrl(id: string, path: string): string {
    return this.url('runs', id, 'files', ...path.split('/'));
  }

  log(id: string, worker: number, offset: number): Promise<LogPiece> {
    return this.json(`${this.url('runs', id, 'logs', String(worker))}?offset=${offset}`);
  }

  async stop(id: string): Promise<void> {
    await this.checked(this.url('runs', id, 'stop'), { method: 'POST' });
  }

  /** Have the server lay a folder with the run's logs for TensorBoard. */
  tensorboard(id: string): Promise<{ command: string }> {
    return this.json(this.url('runs', id, 'tensorboard'), { method: 'POST' });
  }

  async exported(id: string): Promise<string> {
    return (await this.checked(this.url('runs', id, 'export'), {})).text();
  }

  async remove(id: string): Promise<void> {
    await this.checked(this.url('runs', id), { method: 'DELETE' });
  }

  /**
   * Follow the server's one stream: of all runs, or of one.
   *
   * Read with fetch and not with EventSource, which can't send a token.
   */
  async follow(
    run: string | null,
    signal: AbortSignal,
    take: (data: unknown) => void
  ): Promise<void> {
    const query = run === null ? '' : `?run=${encodeURIComponent(run)}`;
    const response = await this.checked(this.url('events') + query, { signal });
    const reader = response.body!.pipeThrough(new TextDecoderStream()).getReader();
    const parse = parser(text => take(JSON.parse(text)));
    for (let part = await reader.read(); !part.done; part = await reader.read()) {
      parse(part.value);
    }
  }

  private url(...parts: string[]): string {
    return `${this.baseUrl}nbtrain/api/${parts.map(encodeURIComponent).join('/')}`;
  }

  private async json<T>(url: string, init: RequestInit = {}): Promise<T> {
    return (await (await this.checked(url, init)).json()) as T;
  }

  private async checked(url: string, init: RequestInit): Promise<Response> {
    const response = await this.fetch(url, init);
    if (!response.ok) {
      const body = (await response.json().catch(() => ({}))) as { message?: string };
      throw new Error(body.message || `${response.status} ${response.statusText}`);
    }
    return response;
  }
}

/** Return what takes pieces of a stream of server-sent events and gives each event's data. */
export function parser(take: (data: string) => void): (piece: string) => void {
  let rest = '';
  return piece => {
    const blocks = (rest + piece).split('\n\n');
    rest = blocks.pop() ?? '';
    for (const block of blocks) {
      const data = block.split('\n').filter(line => line.startsWith('data: '));
      if (data.length) {
        take(data.map(line => line.slice(6)).join('\n'));
      }
    }
  };
}

/** The server of the page, found as JupyterLab and Notebook tell it; null on other pages. */
export function pageServer(): Server | null {
  const element = document.getElementById('jupyter-config-data');
  if (!element?.textContent) {
    return null;
  }
  const config = JSON.parse(element.textContent) as { baseUrl?: string; token?: string };
  const xsrf = /(?:^|;\s*)_xsrf=([^;]*)/.exec(document.cookie)?.[1];
  return new Server(config.baseUrl ?? '/', (url, init) => {
    const headers = new Headers(init.headers);
    if (config.token) {
      headers.set('Authorization', `token ${config.token}`);
    }
    if (xsrf) {
      headers.set('X-XSRFToken', xsrf);
    }
    return fetch(url, { ...init, headers });
  });
}

/** Who does what the buttons of a cell's output are for: Jupyter's server, or the kernel. */

import { LogPiece, RunHost, RunView } from './run';
import { Server } from './server';

/** What anywidget gives, as far as it is used here. */
export interface Model {
  get(name: 'view'): RunView;
  get(name: 'actions'): string[];
  on(event: string, callback: (content: Reply) => void): void;
  off(event: string, callback: (content: Reply) => void): void;
  send(content: unknown): void;
}

interface Reply {
  to?: string;
  value?: unknown;
  error?: string;
}

/** How long the kernel may take to answer before it counts as busy, in milliseconds. */
const PATIENCE = 4000;

/** How often at most a log that is followed asks whether the server has the run, in milliseconds. */
const ASKED_EVERY = 5000;

/** Ask Jupyter's server, which is never busy; where it doesn't know the run, the kernel. */
export function hostOf(model: Model, kernel: KernelHost, server: Server | null): RunHost {
  const actions = model.get('actions');
  const id = model.get('view').id;
  // Asked when it matters, and again: a run that has just begun may be on its way to a cluster.
  let known = false;
  let asked = -Infinity;
  const isKnown = async (every: number): Promise<boolean> => {
    if (!known && server && id && performance.now() - asked >= every) {
      asked = performance.now();
      known = (await server.knows(id)) || known;
    }
    return known;
  };
  const ask = async <T>(
    byServer: (server: Server) => Promise<T>,
    byKernel: () => Promise<T>,
    every = 0
  ): Promise<T> => ((await isKnown(every)) ? byServer(server!) : byKernel());
  return {
    stop: actions.includes('stop')
      ? () => ask(s => s.stop(id), () => kernel.ask('stop')) // prettier-ignore
      : undefined,
    remove: actions.includes('delete')
      ? () => ask(s => s.remove(id), () => kernel.ask('delete')) // prettier-ignore
      : undefined,
    tensorboard: actions.includes('tensorboard')
      ? () =>
          ask(
            s => s.tensorboard(id),
            () => kernel.ask<{ command: string }>('tensorboard')
          )
      : undefined,
    log: actions.includes('log')
      ? (worker, offset) =>
          ask(
            s => s.log(id, worker, offset),
            () => kernel.ask<LogPiece>('log', { worker, offset }),
            ASKED_EVERY
          )
      : undefined
  };
}

export class KernelHost {
  private readonly waiting = new Map<string, (reply: Reply) => void>();
  private number = 0;

  constructor(private readonly model: Model) {
    model.on('msg:custom', this.answered);
  }

  ask<T>(ask: string, given: Record<string, unknown> = {}): Promise<T> {
    const id = `${Date.now().toString(36)}-${this.number++}`;
    return new Promise<T>((resolve, reject) => {
      const timer = window.setTimeout(() => {
        reject(
          new Error(
            'The kernel runs a cell and will answer afterwards. Interrupt it first: the run goes on.'
          )
        );
      }, PATIENCE);
      this.waiting.set(id, reply => {
        clearTimeout(timer);
        this.waiting.delete(id);
        if (reply.error) {
          reject(new Error(reply.error));
        } else {
          resolve(reply.value as T);
        }
      });
      this.model.send({ id, ask, with: given });
    });
  }

  dispose(): void {
    this.model.off('msg:custom', this.answered);
  }

  private readonly answered = (reply: Reply): void => {
    this.waiting.get(reply.to ?? '')?.(reply);
  };
}

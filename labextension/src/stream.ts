/** A stream of the server that is asked for again wherever it breaks off. */

export type Follow<T> = (signal: AbortSignal, take: (news: T) => void) => Promise<void>;

export interface Listener<T> {
  take(news: T): void;
  /** Called with the reason when nothing new comes; what comes next means that it does again. */
  lost(why: string): void;
}

/** How long to wait before the stream is asked for again, in milliseconds. */
const AGAIN = [1000, 2000, 5000, 15000];

/** Follow a stream until the signal, also where the server or a proxy on the way ends it. */
export async function followAgain<T>(
  follow: Follow<T>,
  signal: AbortSignal,
  listener: Listener<T>,
  pause: (ms: number) => Promise<void> = sleep
): Promise<void> {
  const isOver = (): boolean => signal.aborted;
  for (let failed = 0; !isOver(); failed++) {
    let why = 'The connection to the server has ended.';
    try {
      await follow(signal, news => {
        failed = 0;
        listener.take(news);
      });
    } catch (error) {
      why = error instanceof Error ? error.message : String(error);
    }
    if (!isOver()) {
      listener.lost(why);
      await pause(AGAIN[Math.min(failed, AGAIN.length - 1)]);
    }
  }
}

function sleep(ms: number): Promise<void> {
  return new Promise(resolve => setTimeout(resolve, ms));
}

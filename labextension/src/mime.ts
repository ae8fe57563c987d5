/** Draws the end of a run that a notebook has kept, with its buttons where the run still is. */

import { IRenderMime } from '@jupyterlab/rendermime-interfaces';
import { Widget } from '@lumino/widgets';
import { labServer } from './jupyter';
import { RunHost, RunView } from './run';
import { Server } from './server';
import { createRunView, View } from './view';

const MIME = 'application/vnd.nbtrain.run+json';

class KeptRun extends Widget implements IRenderMime.IRenderer {
  private view: View | null = null;

  constructor() {
    super();
    this.node.dataset.mimeType = MIME; // as JupyterLab's own renderers have it
  }

  renderModel(model: IRenderMime.IMimeModel): Promise<void> {
    const data = model.data[MIME] as unknown as RunView;
    this.view?.dispose();
    const server = labServer();
    // Drawn at once: the server may be slow to say whether it has the run, or never say it.
    const there = data.id ? server.knows(data.id) : Promise.resolve(false);
    this.view = createRunView(this.node, hostOf(server, data.id), there);
    this.view.update(data);
    return Promise.resolve();
  }

  dispose(): void {
    this.view?.dispose();
    super.dispose();
  }
}

function hostOf(server: Server, id: string): RunHost {
  return {
    remove: () => server.remove(id),
    tensorboard: () => server.tensorboard(id),
    log: (worker, offset) => server.log(id, worker, offset)
  };
}

const extension: IRenderMime.IExtension = {
  id: 'nbtrain:kept-run',
  rendererFactory: {
    safe: true, // nothing of the data becomes markup (see dom.ts)
    mimeTypes: [MIME],
    createRenderer: () => new KeptRun()
  },
  rank: 0,
  dataType: 'json'
};

export default extension;

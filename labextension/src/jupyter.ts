/** nbtrain's server extension, through JupyterLab's own connection. */

import { ServerConnection } from '@jupyterlab/services';
import { Server } from './server';

export function labServer(settings = ServerConnection.makeSettings()): Server {
  return new Server(settings.baseUrl, (url, init) =>
    ServerConnection.makeRequest(url, init, settings)
  );
}

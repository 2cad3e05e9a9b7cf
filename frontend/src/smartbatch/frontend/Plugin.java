package smartbatch.frontend;

import org.pytorch.serve.servingsdk.ModelServerEndpoint;

/**
 * Where TorchServe lets us in: it makes one of every {@link ModelServerEndpoint} on its class path before it starts a
 * server or a model, so the classes to be mended are not loaded yet. It is no endpoint: without the annotation,
 * TorchServe asks it nothing.
 *
 * <p>TorchServe looks for endpoints twice; the second finds everything done.
 */
public final class Plugin extends ModelServerEndpoint {
    public Plugin() {
        Frontend.start(System.getenv());
    }
}

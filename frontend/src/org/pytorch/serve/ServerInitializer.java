package org.pytorch.serve;

import io.netty.channel.Channel;
import io.netty.channel.ChannelInitializer;
import io.netty.handler.ssl.SslContext;
import org.pytorch.serve.util.ConnectorType;
import smartbatch.frontend.Pipeline;

/** Stands in for TorchServe's class of this name, which its ModelServer makes one of for each port it opens. */
public class ServerInitializer extends ChannelInitializer<Channel> {
    private final SslContext ssl;
    private final ConnectorType type;

    /** As ModelServer calls it; `ssl` is null on a port without TLS. */
    public ServerInitializer(SslContext ssl, ConnectorType type) {
        this.ssl = ssl;
        this.type = type;
    }

    @Override
    protected void initChannel(Channel channel) {
        Pipeline.fill(channel, ssl, type);
    }
}

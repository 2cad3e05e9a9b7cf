package smartbatch.frontend.worker;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertSame;
import static org.junit.Assert.assertTrue;

import io.netty.channel.Channel;
import io.netty.channel.ChannelFuture;
import io.netty.channel.ChannelHandlerContext;
import io.netty.channel.ChannelOutboundHandlerAdapter;
import io.netty.channel.ChannelPromise;
import io.netty.channel.embedded.EmbeddedChannel;
import org.junit.Test;

public class WorkerChannelsTest {
    /** Takes messages and never says that they are sent. */
    private static final class Slow extends ChannelOutboundHandlerAdapter {
        private Object taken;

        @Override
        public void write(ChannelHandlerContext ctx, Object message, ChannelPromise promise) {
            taken = message;
        }
    }

    @Test
    public void aWriteIsNotWaitedFor() throws Exception {
        Slow slow = new Slow();
        EmbeddedChannel channel = new EmbeddedChannel(slow);
        WorkerChannels<Channel> channels = new WorkerChannels<>();
        channels.add(channel);
        ChannelFuture future = channels.get(0).writeAndFlush("batch").sync();
        assertTrue(future.isSuccess());
        assertEquals("batch", slow.taken);
    }

    @Test
    public void theRestIsTheChannels() {
        EmbeddedChannel channel = new EmbeddedChannel();
        WorkerChannels<Channel> channels = new WorkerChannels<>(1);
        channels.add(channel);
        assertSame(channel.closeFuture(), channels.get(0).closeFuture());
        channels.get(0).close();
        assertTrue(!channel.isOpen());
    }

    @Test
    public void otherThingsAreKeptAsTheyAre() {
        WorkerChannels<Object> list = new WorkerChannels<>();
        list.add("text");
        assertEquals("text", list.get(0));
    }
}
